-- Read who is in a room. If the room has no hash, ask the nodes that follow it.
--
-- KEYS: the hash of the room's members (see publish_presence.lua).
-- ARGV: the room's channel, this node, and the body of a delta with this node's clients.
-- Returns: 0, and the hash's fields and values. Without a hash: how many subscribers the channel has. Each of them is a
-- node that answers.

if redis.call('HEXISTS', KEYS[1], 'id') == 1 then
  local fields = redis.call('HGETALL', KEYS[1])
  table.insert(fields, 1, 0)
  return fields
end
redis.call('PUBLISH', ARGV[1], 'p? 0 ' .. ARGV[2] .. '\n' .. ARGV[3])
return {redis.call('PUBSUB', 'NUMSUB', ARGV[1])[2]}
