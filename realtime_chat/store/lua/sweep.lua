-- Delete what is too old, or too much, in rooms that nobody writes to.
--
-- KEYS: the log; then for each room its stream and the hash of its keys.
-- ARGV: how many messages are kept; the lowest "at" that is young enough; how many entries of a room are looked at.
-- Answers: 1 if there is more to delete.

local count, cutoff, most = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
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

for index = 2, #KEYS, 2 do
  local stream, keys = KEYS[index], KEYS[index + 1]
  local first = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  local at = first and tonumber(string.match(field(first, 'm') or '', '^%[(%d+)')) or 0
  if first and at < cutoff then
    trim(stream, keys, old_below(stream), most)
    more = 1
  elseif first and redis.call('XLEN', stream) > count + slack_of(count) then
    local top = standing(stream, '')
    trim(stream, keys, top - count + 1, most)
    more = 1
  elseif not first and redis.call('EXISTS', stream) == 1 and redis.call('HEXISTS', LOG, 'room:' .. room_of(stream)) == 1 then
    redis.call('DEL', stream)
  end
end
return more
