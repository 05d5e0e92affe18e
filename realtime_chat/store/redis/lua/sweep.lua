-- Trim rooms that are not written to, and forget rooms that are unused.
--
-- KEYS: the log; then for each room its stream and the hash of its keys.
-- ARGV: how many messages of a room are kept, and of a namespace's log; the lowest "at" that is kept; the most entries of a room that are deleted;
--       for how many milliseconds an empty room is kept that no node follows; the elapsed time.
-- Returns: 1 if there is more to delete.

local cutoff, most = tonumber(ARGV[3]), tonumber(ARGV[4])
local room_age, now = tonumber(ARGV[5]), math.max(log_elapsed(), tonumber(ARGV[6]))
local more = 0

-- The offset below which entries are too old; nil if no entry is.
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
  redis.call('HSET', LOG, 'floor', whole(math.max(floor, (room_state(stream, '')))))
  redis.call('HDEL', LOG, 'room:' .. room)
  redis.call('ZREM', ROOMS, room)
  redis.call('ZREM', EMPTY, room)
  redis.call('DEL', stream, keys)
  local owner = owner_of(room)
  if owner then
    redis.call('DEL', properties_of(owner))
    redis.call('HINCRBY', LOG, 'unlisted', -1)
  end
end

-- Forget an empty room that is unused. If a node follows it, note that now and then.
local function sweep_empty(room, stream, keys)
  local since = tonumber(redis.call('ZSCORE', EMPTY, room) or now)
  if now - since >= room_age and not is_followed(room) then
    forget(room, stream, keys)
    return
  elseif now - since >= room_age / 2 and is_followed(room) then
    since = now
  end
  redis.call('DEL', stream)
  redis.call('ZADD', EMPTY, whole(since), room)
end

for index = 2, #KEYS, 2 do
  local stream, keys = KEYS[index], KEYS[index + 1]
  local room = room_of(stream)
  local count = kept(room, tonumber(ARGV[1]), tonumber(ARGV[2]))
  local first = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  if first or redis.call('HEXISTS', LOG, 'room:' .. room .. '/properties') == 1 then
    redis.call('ZREM', EMPTY, room)
  elseif redis.call('HEXISTS', LOG, 'room:' .. room) == 1 then
    sweep_empty(room, stream, keys)
  end
  first = not owner_of(room) and first
  local at = first and tonumber(string.match(field(first, 'm') or '', '^%[(%d+)')) or 0
  if first and at < cutoff then
    trim(stream, keys, old_below(stream), most)
    more = 1
  elseif first and redis.call('XLEN', stream) > count + slack_of(count) then
    local top = room_state(stream, '')
    trim(stream, keys, top - count + 1, most)
    more = 1
  end
end
return more
