-- Count the users who are in some rooms.
--
-- KEYS: the members of each room (see attend.lua).
-- ARGV: what the key that a node keeps alive begins with.
-- Answers: how many users are in each. Where the rooms have more than MOST rows together, it is the number of clients in
-- those that come last.

local MOST = 20000

local alive = {}

local function is_alive(node)
  if alive[node] == nil then
    alive[node] = redis.call('EXISTS', ARGV[1] .. node) == 1
  end
  return alive[node]
end

-- How many users have a row of a node that is there; a row begins with its mark and the user's id.
local function users(members)
  local found, count = {}, 0
  local fields = redis.call('HGETALL', members)
  for index = 1, #fields, 2 do
    local node = string.match(fields[index], '^(%x+):')
    local user = node and string.match(fields[index + 1], '^%["[^"]*","([^"]*)"')
    if user and not found[user] and is_alive(node) then
      found[user] = true
      count = count + 1
    end
  end
  return count
end

local counts, left = {}, MOST
for index, members in ipairs(KEYS) do
  local rows = math.max(0, redis.call('HLEN', members) - 2)
  left = left - rows
  counts[index] = rows > 0 and left >= 0 and users(members) or rows
end
return counts
