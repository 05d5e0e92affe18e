-- See who is in a room, or where that stands nowhere, ask the nodes that follow it.
--
-- KEYS: the room's members (see attend.lua).
-- ARGV: the room's channel, the node, and who is there by way of it, as it is published.
-- Answers: 0, and the hash; or how many subscriptions the channel has, each of which is a node that answers.

if redis.call('HEXISTS', KEYS[1], 'id') == 1 then
  local fields = redis.call('HGETALL', KEYS[1])
  table.insert(fields, 1, 0)
  return fields
end
redis.call('PUBLISH', ARGV[1], 'p? 0 ' .. ARGV[2] .. '\n' .. ARGV[3])
return {redis.call('PUBSUB', 'NUMSUB', ARGV[1])[2]}
