-- Say all of a node's clients who are in a room, after some of that may have been lost. If anything was, everybody is
-- made to look, by a version that doesn't follow the one before.
--
-- KEYS: the room's members, and the store's log (see attend.lua).
-- ARGV: the room's channel, the room, the node, an id for a new hash, the seconds for which the hash stays, "1" if everybody is to
-- look in any case; then a field and a row for each client.

local members, channel, node, id = KEYS[1], ARGV[1], ARGV[3], ARGV[4]
local changed = ARGV[6] == '1'
local known = #ARGV > 6 and redis.call('HEXISTS', KEYS[2], 'room:' .. ARGV[2]) == 1
if redis.call('HEXISTS', members, 'id') == 0 and not known then
  local rows = {}
  for index = 8, #ARGV, 2 do
    rows[#rows + 1] = ARGV[index]
  end
  redis.call('PUBLISH', channel, 'p= 0 ' .. node .. '\n[[' .. table.concat(rows, ',') .. '],[]]')
  return
end
if redis.call('HSETNX', members, 'id', id) == 1 then
  changed = true
else
  id = redis.call('HGET', members, 'id')
end
local there = {}
for index = 7, #ARGV, 2 do
  there[ARGV[index]] = true
  if redis.call('HGET', members, ARGV[index]) ~= ARGV[index + 1] then
    redis.call('HSET', members, ARGV[index], ARGV[index + 1])
    changed = true
  end
end
for _, field in ipairs(redis.call('HKEYS', members)) do
  if string.sub(field, 1, #node + 1) == node .. ':' and not there[field] then
    redis.call('HDEL', members, field)
    changed = true
  end
end
redis.call('EXPIRE', members, ARGV[5])
if changed then
  local version = redis.call('HINCRBY', members, 'v', 2)
  redis.call('PUBLISH', channel, 'p' .. id .. ' ' .. string.format('%.0f', version) .. ' ' .. node .. '\n[[],[]]')
end
