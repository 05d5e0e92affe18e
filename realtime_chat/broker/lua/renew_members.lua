-- Keep the members of rooms for a while longer, and delete those of nodes that are gone.
--
-- KEYS: for each node that is gone, the key that it would keep if it weren't; then the members of each room (see
-- attend.lua).
-- ARGV: the seconds for which a hash stays; then the nodes that are gone, in the order of their keys.
-- Answers: the rooms whose hash isn't there any more, by their numbers, from 0.

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
