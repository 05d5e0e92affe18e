-- Publish that some of a node's clients came to a room, changed, or went.
--
-- KEYS: the hash of the room's members, and the store's log. The log knows the rooms that ever had a message. Other
-- rooms have no hash, and their changes are only published.
-- The hash: field "v" counts the changes; field "id" differs from that of a lost hash of the same name; each other
-- field is NODE:CLIENT_HASH and has a row (broker/presence_messages.py).
-- ARGV: the room's channel, the room, the node, an id for a new hash, the seconds after which the hash expires, the
-- delta's body, and how many clients came; then a field and a row for each of these, and a field for each client that
-- went.
-- Returns: 1 if the hash is new, else 0.

local members, channel, node, id = KEYS[1], ARGV[1], ARGV[3], ARGV[4]
local came = tonumber(ARGV[7])
if redis.call('HEXISTS', members, 'id') == 0 and redis.call('HEXISTS', KEYS[2], 'room:' .. ARGV[2]) == 0 then
  redis.call('PUBLISH', channel, 'p- 0 ' .. node .. '\n' .. ARGV[6])
  return 0
end
local new = redis.call('HSETNX', members, 'id', id)
if new == 0 then
  id = redis.call('HGET', members, 'id')
end
for index = 8, 7 + 2 * came, 2 do
  redis.call('HSET', members, ARGV[index], ARGV[index + 1])
end
for index = 8 + 2 * came, #ARGV do
  redis.call('HDEL', members, ARGV[index])
end
local version = redis.call('HINCRBY', members, 'v', 1)
redis.call('EXPIRE', members, ARGV[5])
redis.call('PUBLISH', channel, 'p' .. id .. ' ' .. string.format('%.0f', version) .. ' ' .. node .. '\n' .. ARGV[6])
return new
