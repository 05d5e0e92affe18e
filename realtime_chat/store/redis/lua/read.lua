-- Read a page of a room's log, or all that was set after an offset in the log of its properties.
--
-- KEYS: the log, the room's stream.
-- ARGV: the run_id; after or before; an offset (for before also +, the end); the most messages; how many messages of a room
--       are kept; the lowest "at" that is kept; the bytes of rows that fill a page.
-- Returns: the epoch, the oldest offset that is kept, the top, the offset after which the epoch started, and then for each
--       message its offset and its row, ascending.
-- Errors: NOLOG, OTHERLOG.

local stream = KEYS[2]
local run_id, direction, asked = unpack(ARGV)
local limit, count, cutoff, full = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])

local known = redis.call('HMGET', LOG, 'run_id', 'epoch')
if not known[2] then
  return redis.error_reply('NOLOG there is no log; whoever keeps it has to begin one')
elseif known[1] ~= run_id then
  return redis.error_reply('OTHERLOG the log was last used in another run of this server')
end

local epoch = known[2]
local top, begun = room_state(stream, epoch)

local function offset_of(entry)
  return tonumber(string.match(entry[1], '^%d+'))
end

local function at_of(entry)
  return tonumber(string.match(field(entry, 'm') or '', '^%[(%d+)')) or 0
end

-- The first entry from an offset on.
local function first_from(offset)
  return redis.call('XRANGE', stream, whole(offset), '+', 'COUNT', 1)[1]
end

-- The lowest offset that is kept: a binary search, as offsets and times go up together.
local function oldest_kept()
  local first = first_from(math.max(1, top - count + 1))
  if not first then
    return top + 1
  end
  local low, high = offset_of(first), top + 1
  if cutoff == 0 or at_of(first) >= cutoff then
    return low
  end
  while low < high do
    local middle = math.floor((low + high) / 2)
    local entry = first_from(middle)
    if entry and at_of(entry) < cutoff then
      low = offset_of(entry) + 1
    else
      high = middle
    end
  end
  return low
end

local owner = owner_of(room_of(stream))
local oldest
if owner then
  oldest = (read_property(properties_of(owner), '') or top) + 1
  full = math.huge
else
  oldest = oldest_kept()
end
local entries, size = {}, 0

-- Add entries to the page. Returns false if it is full, or if there are no more.
local function take(found)
  for _, entry in ipairs(found) do
    if #entries == limit or size >= full then
      return false
    end
    entries[#entries + 1] = entry
    size = size + #(field(entry, 'm') or '')
  end
  return #found > 0 and #entries < limit and size < full
end

-- How many entries to read next: few, until something is known of their size.
local function portion()
  local most = limit - #entries
  if size == 0 then
    return math.min(most, 16)
  end
  return math.min(most, math.floor((full - size) * #entries / size) + 1)
end

if direction == 'after' then
  local low = math.max(owner and 1 or oldest, tonumber(asked) + 1)
  while limit > 0 and low <= top and take(redis.call('XRANGE', stream, whole(low), whole(top), 'COUNT', portion())) do
    low = offset_of(entries[#entries]) + 1
  end
else
  local high = asked == '+' and top or math.min(top, tonumber(asked) - 1)
  while limit > 0 and high >= oldest
    and take(redis.call('XREVRANGE', stream, whole(high), whole(oldest), 'COUNT', portion())) do
    high = offset_of(entries[#entries]) - 1
  end
end

local answer = {epoch, whole(oldest), whole(top), whole(begun)}
local first, last, step = 1, #entries, 1
if direction == 'before' then
  first, last, step = #entries, 1, -1
end
for index = first, last, step do
  answer[#answer + 1] = string.match(entries[index][1], '^%d+')
  answer[#answer + 1] = field(entries[index], 'm') or ''
end
return answer
