-- Count the users in some rooms.
--
-- KEYS: for each room, the hash of its members (see publish_presence.lua).
-- ARGV: the prefix of the keys that nodes keep alive.
-- Returns: for each room, how many users are in it. If the rooms together have more than MOST rows, the last rooms get
-- the number of their clients instead, which costs less.

local MOST = 20000

local alive = {}

local function is_alive(node)
  if alive[node] == nil then
    alive[node] = redis.call('EXISTS', ARGV[1] .. node) == 1
  end
  return alive[node]
end

-- Count the users that have a row of a node that is alive. A row begins with the client's hash and the user's id.
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
