-- Restore all rows of a node in a room, after some may have been lost. If some were, all nodes have to read the hash:
-- the version that is published doesn't follow the one before.
--
-- KEYS: the hash of the room's members, and the store's log (see publish_presence.lua).
-- ARGV: the room's channel, the room, the node, an id for a new hash, the seconds after which the hash expires, "1" if
-- all nodes have to read it in any case; then a field and a row for each client.

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
