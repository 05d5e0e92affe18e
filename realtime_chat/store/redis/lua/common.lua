-- Functions that the scripts of the store share. This file is put before each of them.
--
-- KEYS[1] is the log, a hash:
--   run_id   the run of Redis in which the log was last used
--   epoch    the name of the log
--   safe     1 if Redis promises to lose nothing that it has answered
--   secret   hexadecimal; it lives as long as the log
--   count    how many messages of a room are kept
--   namespace_count  the same of the log of a Socket.IO namespace, whose name begins with /
--   age      for how many milliseconds; empty for ever
--   max      the most bytes of a message
--   append   the hash with which other programs run append.lua
--   rooms    the most rooms
--   rate     the most rooms that are created a second
--   making   "TOKENS AT": the token bucket of that rate, and its time in milliseconds
--   floor    the highest top of all rooms that were forgotten; a new room begins after it
--   unlisted how many fields of the log are not rooms
--   elapsed  for how many milliseconds nodes have run, by their monotonic clocks. Each node sends what it knows, and the
--            highest value counts. No wall clock is used.
--   room:R   "TOP EPOCH START": the last offset of room R, its epoch, and the offset after which that epoch started in
--            the room. If the log has another epoch by now, that one started after TOP. R may also be ROOM/properties,
--            the log of the room's properties.
--   properties      the most properties of a room
--   property_bytes  the most bytes of data that they have together
-- All this is in one key on purpose. If Redis loses it, all of it is lost, which is noticed. The top of a single room
-- can't get lost.
--
-- SCOPE:rooms is a sorted set with the names of all rooms, to list them in order. If it has fewer rooms than the log, it is
-- made again (is_listed). SCOPE:empty is a sorted set of the rooms that were found to be empty, with the elapsed time then.
--
-- The stream of a room has entries OFFSET-0. Their fields are m (the row, see redis/rows.py) and, if the message has a key,
-- k (the name of its idempotency entry). An idempotency entry is "OFFSET AT DIGEST ELAPSED". While the message is kept, the
-- entry is in the hash of the room's keys. After that it is kept for KEY_MILLISECONDS or longer in a hash that all rooms
-- share. There are two such hashes, one for each of the last two generations of "elapsed".
--
-- The log of a room's properties is a stream like a room's, of which only the last entry of each property is kept. The hash
-- SCOPE:properties:ROOM has "OFFSET SIZE" for each property: its entry, and the bytes of its data. Its field without a name
-- is "REMOVED SIZE": the offset of the last removal, and the bytes of all data.

local LOG = KEYS[1]
local SCOPE = string.sub(LOG, 1, -5)
local ROOMS, EMPTY = SCOPE .. ':rooms', SCOPE .. ':empty'
local KEY_MILLISECONDS = 300000
-- By how much the elapsed times of two nodes may differ. Each node is told every three seconds.
local BEHIND = 5000
local GENERATION = KEY_MILLISECONDS + 2 * BEHIND

local function whole(number)
  return string.format('%.0f', number)
end

-- The room of a stream SCOPE:stream:ROOM.
local function room_of(stream)
  return string.sub(stream, #SCOPE + 9)
end

-- How many messages of a room are kept.
local function kept(room, count, namespace_count)
  return string.sub(room, 1, 1) == '/' and namespace_count or count
end

-- The room of a log of properties ROOM/properties; nil for the log of a room, or of a Socket.IO namespace.
local function owner_of(name)
  return string.match(name, '^([^/]+)/properties$')
end

local function properties_of(room)
  return SCOPE .. ':properties:' .. room
end

-- The two numbers of a field of the hash of properties; nil if there is no such field.
local function read_property(index, name)
  local value = redis.call('HGET', index, name)
  if value then
    local first, second = string.match(value, '^(%d+) (%d+)$')
    return tonumber(first), tonumber(second)
  end
end

local function slack_of(count)
  return math.max(64, math.floor(count / 10))
end

-- The last offset that a stream ever had, even if its entries are gone.
local function last_offset(stream)
  local info = redis.pcall('XINFO', 'STREAM', stream)
  for index = 1, info.err and 0 or #info, 2 do
    if info[index] == 'last-generated-id' then
      return tonumber(string.match(info[index + 1], '^%d+'))
    end
  end
  return 0
end

-- The state of a room: its top, the offset after which the epoch started, and whether the room exists. If the log was lost
-- but not the stream, or if the room was forgotten, it continues after the offsets that were given.
local function room_state(stream, epoch)
  local state = redis.call('HGET', LOG, 'room:' .. room_of(stream))
  if not state then
    local top = math.max(last_offset(stream), tonumber(redis.call('HGET', LOG, 'floor') or 0))
    return top, top, false
  end
  local top, of, begun = string.match(state, '^(%d+) (%S+) (%d+)$')
  return tonumber(top), tonumber(of == epoch and begun or top), true
end

-- Whether the list has as many rooms as the log. Both are changed together, so that it has the same rooms then.
local function is_listed()
  local unlisted = redis.call('HGET', LOG, 'unlisted')
  return unlisted and redis.call('HLEN', LOG) - redis.call('ZCARD', ROOMS) == tonumber(unlisted)
end

-- Make the list again: it was lost, or a node of an older release has created rooms.
local function rebuild_list()
  redis.call('DEL', ROOMS)
  local cursor = '0'
  repeat
    local found = redis.call('HSCAN', LOG, cursor, 'COUNT', 1000)
    local words = {}
    cursor = found[1]
    for index = 1, #found[2], 2 do
      local field = found[2][index]
      if string.sub(field, 1, 5) == 'room:' and not owner_of(field) then
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

-- The hash of the idempotency entries whose messages were deleted in one generation of "elapsed".
local function deleted_keys(number)
  return SCOPE .. ':gone:' .. whole(number)
end

-- The name of an entry in that hash. Its length comes first, as the name of a room may have colons.
local function shared_name(stream, name)
  local room = room_of(stream)
  return #room .. ':' .. room .. ':' .. name
end

local function log_elapsed()
  return tonumber(redis.call('HGET', LOG, 'elapsed') or 0)
end

-- Set the elapsed time to that of a node, if it is higher, and delete the hashes of older generations. If memory is full
-- and nothing can be written, it stands still. Returns the elapsed time of the log.
local function advance_elapsed(node_elapsed)
  local before = log_elapsed()
  local saved = node_elapsed > before and redis.pcall('HSET', LOG, 'elapsed', whole(node_elapsed))
  if not saved or type(saved) == 'table' then
    return before
  end
  local last = generation(node_elapsed) - 2
  for number = math.max(generation(before) - 1, last - 8), last do
    redis.call('UNLINK', deleted_keys(number))
  end
  return node_elapsed
end

-- The value of a field of an entry in a stream.
local function field(entry, name)
  for index = 1, #entry[2], 2 do
    if entry[2][index] == name then
      return entry[2][index + 1]
    end
  end
end

-- Parse an idempotency entry: the offset, "at", the digest, and the elapsed time when it was made.
local function read_entry(value)
  local offset, at, digest, elapsed = string.match(value, '^(%d+) (%d+) (%S+) ?(%d*)$')
  return tonumber(offset), tonumber(at), digest, tonumber(elapsed) or 0
end

-- Keep the key of a message that is deleted, if it is young.
local function keep_key(stream, keys, entry, elapsed)
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
    redis.call('HSET', deleted_keys(generation(elapsed)), shared_name(stream, name), value)
  end
end

-- Delete the entries of a stream below an offset, at most so many.
local function trim(stream, keys, below, most)
  local entries = redis.call('XRANGE', stream, '-', whole(below - 1), 'COUNT', most)
  if #entries == 0 then
    return
  end
  local elapsed = log_elapsed()
  for _, entry in ipairs(entries) do
    keep_key(stream, keys, entry, elapsed)
  end
  local last = tonumber(string.match(entries[#entries][1], '^%d+'))
  redis.call('XTRIM', stream, 'MINID', whole(last + 1))
end
