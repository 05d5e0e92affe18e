-- What the scripts of the store share; it stands before each of them.
--
-- KEYS[1] is the log, a hash:
--   run_id   which run of the server the log was last used in
--   epoch    the log's name
--   safe     1 where the server, as far as is known, loses nothing that it has answered
--   secret   hexadecimal; lives as long as the log
--   count    how many messages are kept a room
--   age      for how many milliseconds; empty for ever
--   max      bytes of the largest message
--   append   the hash by which other programs run append.lua
--   rooms    how many rooms there may be
--   rate     how many are made a second
--   making   "LEFT AT": how many could be made at once at a time in milliseconds
--   floor    the highest top of all rooms that were forgotten; where a room begins that isn't there
--   unlisted how many fields are not rooms
--   elapsed  for how many milliseconds nodes have been there, by their monotonic clocks: each says from time to time how
--            far it has got since it was told, and the highest counts. No wall clock has a part in it
--   room:R   "TOP EPOCH BEGUN": the last offset that was given in room R, in which epoch, and after which offset that
--            epoch began there. Where the epoch is another, that of the log began after TOP.
-- All of it is one key on purpose: Redis may lose it as a whole, which is noticed, but never the top of one room.
--
-- SCOPE:rooms is a sorted set with the names of all rooms, to list them in order. It holds nothing that the log hasn't, and
-- is made anew where it hasn't as many rooms as that (is_listed). SCOPE:empty is one of the rooms that were found to have
-- no messages, with what had elapsed then.
--
-- A room's stream has the entries OFFSET-0 with the fields m (the row, see redis/rows.py) and, where there is one, k (the
-- name of its idempotency entry). Those are in the hash of the room's keys as long as the message is kept, and then, at
-- least KEY_MILLISECONDS, in one of two hashes that all rooms share: "OFFSET AT DIGEST ELAPSED".

local LOG = KEYS[1]
local SCOPE = string.sub(LOG, 1, -5)
local ROOMS, EMPTY = SCOPE .. ':rooms', SCOPE .. ':empty'
local KEY_MILLISECONDS = 300000
-- By how much what two nodes say of "elapsed" may differ: each is told every three seconds.
local BEHIND = 5000
local GENERATION = KEY_MILLISECONDS + 2 * BEHIND

local function whole(number)
  return string.format('%.0f', number)
end

-- The room of a stream SCOPE:stream:ROOM.
local function room_of(stream)
  return string.sub(stream, #SCOPE + 9)
end

local function slack_of(count)
  return math.max(64, math.floor(count / 10))
end

-- The last offset that a stream ever had.
local function last_of(stream)
  local info = redis.pcall('XINFO', 'STREAM', stream)
  for index = 1, info.err and 0 or #info, 2 do
    if info[index] == 'last-generated-id' then
      return tonumber(string.match(info[index + 1], '^%d+'))
    end
  end
  return 0
end

-- Where a room stands: its top, after which offset the epoch began in it, and whether it is there. Where the log was lost
-- and the stream was not, or the room was forgotten, no offset is given twice.
local function standing(stream, epoch)
  local state = redis.call('HGET', LOG, 'room:' .. room_of(stream))
  if not state then
    local top = math.max(last_of(stream), tonumber(redis.call('HGET', LOG, 'floor') or 0))
    return top, top, false
  end
  local top, of, begun = string.match(state, '^(%d+) (%S+) (%d+)$')
  return tonumber(top), tonumber(of == epoch and begun or top), true
end

-- Whether the list has as many rooms as the log. As both are changed together, it has the same ones then.
local function is_listed()
  local unlisted = redis.call('HGET', LOG, 'unlisted')
  return unlisted and redis.call('HLEN', LOG) - redis.call('ZCARD', ROOMS) == tonumber(unlisted)
end

-- Make the list anew: it was lost, or a node of an older release has made rooms.
local function list_all()
  redis.call('DEL', ROOMS)
  local cursor = '0'
  repeat
    local found = redis.call('HSCAN', LOG, cursor, 'COUNT', 1000)
    local words = {}
    cursor = found[1]
    for index = 1, #found[2], 2 do
      local field = found[2][index]
      if string.sub(field, 1, 5) == 'room:' then
        words[#words + 1] = '0'
        words[#words + 1] = string.sub(field, 6)
      end
    end
    if #words > 0 then
      redis.call('ZADD', ROOMS, unpack(words))
    end
  until cursor == '0'
  redis.call('HSET', LOG, 'unlisted', 0)
  redis.call('HSET', LOG, 'unlisted', redis.call('HLEN', LOG) - redis.call('ZCARD', ROOMS))
end

local function generation(elapsed)
  return math.floor(elapsed / GENERATION)
end

-- The hash of idempotency entries whose messages went in one span of "elapsed".
local function gone(number)
  return SCOPE .. ':gone:' .. whole(number)
end

-- The name of an entry in there. The length keeps apart what colons don't.
local function lone_name(stream, name)
  local room = room_of(stream)
  return #room .. ':' .. room .. ':' .. name
end

local function elapsed_of_log()
  return tonumber(redis.call('HGET', LOG, 'elapsed') or 0)
end

-- A node says what it believes to have elapsed. What went two generations ago is forgotten. Where nothing can be written,
-- as memory is full, what has elapsed stands still.
local function pass(told)
  local before = elapsed_of_log()
  local noted = told > before and redis.pcall('HSET', LOG, 'elapsed', whole(told))
  if not noted or type(noted) == 'table' then
    return before
  end
  local last = generation(told) - 2
  for number = math.max(generation(before) - 1, last - 8), last do
    redis.call('UNLINK', gone(number))
  end
  return told
end

-- Where the value of a field stands in an entry of a stream.
local function field(entry, name)
  for index = 1, #entry[2], 2 do
    if entry[2][index] == name then
      return entry[2][index + 1]
    end
  end
end

-- What an idempotency entry says: its offset, "at", digest, and what had elapsed when it was made.
local function read_entry(value)
  local offset, at, digest, elapsed = string.match(value, '^(%d+) (%d+) (%S+) ?(%d*)$')
  return tonumber(offset), tonumber(at), digest, tonumber(elapsed) or 0
end

-- Let the key of an entry that goes live on while it is young.
local function release(stream, keys, entry, elapsed)
  local name = field(entry, 'k')
  local value = name and redis.call('HGET', keys, name)
  if not value then
    return
  end
  local offset, _, _, made = read_entry(value)
  if whole(offset) .. '-0' ~= entry[1] then
    return
  end
  redis.call('HDEL', keys, name)
  if elapsed - made <= KEY_MILLISECONDS + BEHIND then
    redis.call('HSET', gone(generation(elapsed)), lone_name(stream, name), value)
  end
end

-- Delete entries below an offset, at most so many.
local function trim(stream, keys, below, most)
  local entries = redis.call('XRANGE', stream, '-', whole(below - 1), 'COUNT', most)
  if #entries == 0 then
    return
  end
  local elapsed = elapsed_of_log()
  for _, entry in ipairs(entries) do
    release(stream, keys, entry, elapsed)
  end
  local last = tonumber(string.match(entries[#entries][1], '^%d+'))
  redis.call('XTRIM', stream, 'MINID', whole(last + 1))
end
