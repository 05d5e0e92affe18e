-- Let the hashes of some rooms expire later, and delete the rows of nodes that are gone.
--
-- KEYS: for each node that is gone, the key that it would keep alive; then for each room the hash of its members (see
-- publish_presence.lua).
-- ARGV: the seconds after which a hash expires; then the nodes that are gone, in the order of their keys.
-- Returns: the numbers of the rooms, from 0, whose hash is missing.

local gone = #ARGV - 1
local prefixes = {}
for index = 1, gone do
  if redis.call('EXISTS', KEYS[index]) == 0 then
    prefixes[#prefixes + 1] = ARGV[index + 1] .. ':'
  end
end

local function clear(members)
  for _, field in ipairs(redis.call('HKEYS', members)) do
    for _, prefix in ipairs(prefixes) do
      if string.sub(field, 1, #prefix) == prefix then
        redis.call('HDEL', members, field)
      end
    end
  end
end

local lost = {}
for index = gone + 1, #KEYS do
  if redis.call('EXPIRE', KEYS[index], ARGV[1]) == 0 then
    lost[#lost + 1] = index - gone - 1
  elseif #prefixes > 0 then
    clear(KEYS[index])
  end
end
return lost
