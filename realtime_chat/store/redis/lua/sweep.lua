-- Delete what is too old, or too much, in rooms that nobody writes to, and forget rooms that are not used any more.
--
-- KEYS: the log; then for each room its stream and the hash of its keys.
-- ARGV: how many messages are kept; the lowest "at" that is young enough; how many entries of a room are looked at; for how
--       many milliseconds a room is kept that has no messages, and that no node follows; what has elapsed.
-- Answers: 1 if there is more to delete.

local count, cutoff, most = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local patience, now = tonumber(ARGV[4]), math.max(elapsed_of_log(), tonumber(ARGV[5]))
local more = 0

-- The offset below which the first entries are too old; nil if none is.
local function old_below(stream)
  local below
  for _, entry in ipairs(redis.call('XRANGE', stream, '-', '+', 'COUNT', most)) do
    local at = tonumber(string.match(field(entry, 'm') or '', '^%[(%d+)')) or 0
    if at >= cutoff then
      return below
    end
    below = tonumber(string.match(entry[1], '^%d+')) + 1
  end
  return below
end

local function is_followed(room)
  return redis.call('PUBSUB', 'NUMSUB', SCOPE .. ':room:' .. room)[2] > 0
end

local function forget(room, stream, keys)
  local floor = tonumber(redis.call('HGET', LOG, 'floor') or 0)
  redis.call('HSET', LOG, 'floor', whole(math.max(floor, (standing(stream, '')))))
  redis.call('HDEL', LOG, 'room:' .. room)
  redis.call('ZREM', ROOMS, room)
  redis.call('ZREM', EMPTY, room)
  redis.call('DEL', stream, keys)
end

-- Of a room that is followed, remember now and then that it was.
local function look_at_empty(room, stream, keys)
  local since = tonumber(redis.call('ZSCORE', EMPTY, room) or now)
  if now - since >= patience and not is_followed(room) then
    forget(room, stream, keys)
    return
  elseif now - since >= patience / 2 and is_followed(room) then
    since = now
  end
  redis.call('DEL', stream)
  redis.call('ZADD', EMPTY, whole(since), room)
end

for index = 2, #KEYS, 2 do
  local stream, keys = KEYS[index], KEYS[index + 1]
  local room = room_of(stream)
  local first = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  if first then
    redis.call('ZREM', EMPTY, room)
  elseif redis.call('HEXISTS', LOG, 'room:' .. room) == 1 then
    look_at_empty(room, stream, keys)
  end
  local at = first and tonumber(string.match(field(first, 'm') or '', '^%[(%d+)')) or 0
  if first and at < cutoff then
    trim(stream, keys, old_below(stream), most)
    more = 1
  elseif first and redis.call('XLEN', stream) > count + slack_of(count) then
    local top = standing(stream, '')
    trim(stream, keys, top - count + 1, most)
    more = 1
  end
end
return more
