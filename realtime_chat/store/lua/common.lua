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
--   room:R   "TOP EPOCH BEGUN": the last offset that was given in room R, in which epoch, and after which offset that
--            epoch began there. Where the epoch is another, that of the log began after TOP.
-- All of it is one key on purpose: Redis may lose it as a whole, which is noticed, but never the top of one room.
--
-- SCOPE:rooms is a sorted set with the names of all rooms, to list them in order. It holds nothing that the log hasn't, and
-- is made anew where it hasn't as many rooms as that (is_listed). SCOPE:empty is one of the rooms that were found to have
-- no messages, with the time in milliseconds.
--
-- A room's stream has the entries OFFSET-0 with the fields m (the row, see redis/rows.py) and, where there is one, k (the
-- name of its idempotency entry). Those are in the hash of the room's keys as long as the message is kept, and then, up
-- to KEY_MILLISECONDS, each by itself: "OFFSET AT DIGEST".

local LOG = KEYS[1]
local SCOPE = string.sub(LOG, 1, -5)
local ROOMS, EMPTY = SCOPE .. ':rooms', SCOPE .. ':empty'
local KEY_MILLISECONDS = 300000

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

-- The key of an idempotency entry whose message is gone. The length keeps apart what colons don't.
local function lone_key(stream, name)
  local room = room_of(stream)
  return SCOPE .. ':key:' .. #room .. ':' .. room .. ':' .. name
end

-- Where the value of a field stands in an entry of a stream.
local function field(entry, name)
  for index = 1, #entry[2], 2 do
    if entry[2][index] == name then
      return entry[2][index + 1]
    end
  end
end

-- Let the key of an entry that goes live on by itself while it is young.
local function release(stream, keys, entry, now)
  local name = field(entry, 'k')
  local value = name and redis.call('HGET', keys, name)
  if not value then
    return
  end
  local offset, at = string.match(value, '^(%d+) (%d+) ')
  if offset .. '-0' ~= entry[1] then
    return
  end
  redis.call('HDEL', keys, name)
  local left = tonumber(at) + KEY_MILLISECONDS - now
  if left >= 0 then
    redis.call('SET', lone_key(stream, name), value, 'PX', whole(math.min(left + 1000, 2 * KEY_MILLISECONDS)))
  end
end

-- Delete entries below an offset, at most so many.
local function trim(stream, keys, below, most, now)
  local entries = redis.call('XRANGE', stream, '-', whole(below - 1), 'COUNT', most)
  if #entries == 0 then
    return
  end
  for _, entry in ipairs(entries) do
    release(stream, keys, entry, now)
  end
  local last = tonumber(string.match(entries[#entries][1], '^%d+'))
  redis.call('XTRIM', stream, 'MINID', whole(last + 1))
end
