-- Say who of a node's clients came to a room, changed, or went.
--
-- KEYS: the room's members, a hash. Its field "v" counts the changes, "id" tells this hash from one of the same name that
-- was lost; every other field is NODE:MARK, and holds a row (broker/redis_presence.py).
-- ARGV: the room's channel, the node, an id for a new hash, the seconds for which the hash stays if nobody changes or
-- renews it, what is published of the change, and how many came; then a field and a row for each of those, and a field for
-- each who went.
-- Answers: 1 if the hash is new, else 0.

local members, channel, node, id = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local came = tonumber(ARGV[6])
local new = redis.call('HSETNX', members, 'id', id)
if new == 0 then
  id = redis.call('HGET', members, 'id')
end
for index = 7, 6 + 2 * came, 2 do
  redis.call('HSET', members, ARGV[index], ARGV[index + 1])
end
for index = 7 + 2 * came, #ARGV do
  redis.call('HDEL', members, ARGV[index])
end
local version = redis.call('HINCRBY', members, 'v', 1)
redis.call('EXPIRE', members, ARGV[4])
redis.call('PUBLISH', channel, 'p' .. id .. ' ' .. string.format('%.0f', version) .. ' ' .. node .. '\n' .. ARGV[5])
return new
