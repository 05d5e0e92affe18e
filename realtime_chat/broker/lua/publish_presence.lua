-- Say who of a node's clients came to a room, changed, or went.
--
-- KEYS: the room's members, a hash, and the store's log, which knows the rooms that ever had a message: others have no
-- hash, and what changes there is published alone. Its field "v" counts the changes, "id" tells this hash from one of the same name that
-- was lost; every other field is NODE:MARK, and holds a row (broker/redis_presence.py).
-- ARGV: the room's channel, the room, the node, an id for a new hash, the seconds for which the hash stays if nobody changes or
-- renews it, what is published of the change, and how many came; then a field and a row for each of those, and a field for
-- each who went.
-- Answers: 1 if the hash is new, else 0.

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
