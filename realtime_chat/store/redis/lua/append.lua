-- Append messages to rooms, and announce them. A message with an idempotency key is stored once.
--
-- The form for the daemon:
-- KEYS: the log, then for each room its stream and the hash of its keys.
-- ARGV: 1 the run_id
--       2 the deadline: Redis' time in milliseconds after which nothing is stored
--       3 the slot where the answer is remembered
--       4 the number of this batch
--       5 the elapsed time of the node
--       6 the lowest "at" that is kept
--       7 the slot of the batch before, if that batch was sent and has no answer yet, or nothing
--       then six for each message: the number of its room, its "at", its row (redis/rows.py), the name of its key or
--       nothing, the digest of its content, and the name of the key that has to exist (or nothing). In the log of a
--       room's properties it is SIZE:NAME instead: the bytes of the data (or nothing, to remove it), and the property.
-- A node that got no answer may send the same batch again, with the same number.
-- Returns: the epoch, then for each message one of
--       its offset
--       REUSED: its key was used for other content
--       a list, if the message was stored before: the offset, the "at" and the row of the first one. The row is empty if
--         only the key is left. The same with the top, if a property is to be removed that doesn't exist
--       MANY: there are too many rooms to create one;  FAST: rooms are created too fast
--       BEFORE: the key that has to exist does not
--       FULL: the room would have too many properties, or too much data in them
--
-- The form for other programs:
-- KEYS: SCOPE:log, SCOPE:stream:ROOM and SCOPE:keys:ROOM.
-- ARGV: the event, the sender's id and name, the data as JSON, and perhaps a key.
-- Returns: "stored" or "duplicate", and the position.
--
-- Errors: NOLOG, OTHERLOG, LATE, EARLY: nothing is stored, and the daemon initialises the log or retries.
--         BADMESSAGE, KEYREUSED, MANYROOMS, FASTROOMS: for other programs; the text says what is wrong.

local REMEMBERED_MILLISECONDS = 10000
local SECONDS_AT_ONCE = 20

local known = redis.call('HMGET', LOG, 'run_id', 'epoch', 'count', 'age', 'max', 'elapsed', 'namespace_count')
if not known[2] then
  return redis.error_reply('NOLOG there is no log; a daemon has to be started with this store first')
end
local epoch, count, age, max = known[2], tonumber(known[3]), tonumber(known[4]), tonumber(known[5])
local namespace_count = tonumber(known[7]) or count
local is_external = #KEYS == 3 and #ARGV < 12
local elapsed_in_log = tonumber(known[6] or 0)
local elapsed = is_external and elapsed_in_log or math.max(elapsed_in_log, tonumber(ARGV[5]))

local function milliseconds()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local rooms = {}

-- The room with a number. Its state is read once.
local function open_room(number)
  local room = rooms[number]
  if not room then
    room = {stream = KEYS[2 * number], keys = KEYS[2 * number + 1], rows = {}}
    room.top, room.begun, room.there = room_state(room.stream, epoch)
    rooms[number] = room
  end
  return room
end

-- The idempotency entry of a key.
local function find_entry(room, name)
  local value = redis.call('HGET', room.keys, name)
  for back = 0, value and -1 or 1 do
    value = value or redis.call('HGET', deleted_keys(generation(elapsed_in_log) - back), shared_name(room.stream, name))
  end
  return value
end

-- What was published under a key, if that entry still counts: the offset, "at" and the digest.
local function find_published(room, name, cutoff)
  local value = find_entry(room, name)
  if not value then
    return
  end
  local offset, at, digest, made = read_entry(value)
  if (offset > room.top - count and at >= cutoff) or elapsed - made <= KEY_MILLISECONDS + BEHIND then
    return {offset = offset, at = at, digest = digest}
  end
end

-- Save the state of a room.
local function save_room(room, name)
  redis.call('HSET', LOG, 'room:' .. name, whole(room.top) .. ' ' .. epoch .. ' ' .. whole(room.begun))
end

-- Why a room can't be created; nil if it can, which takes a token. The time is that of Redis, as clocks of nodes differ.
local function creation_refusal()
  local found = redis.call('HMGET', LOG, 'rooms', 'rate', 'making', 'unlisted')
  local most, rate, unlisted = tonumber(found[1]), tonumber(found[2]), tonumber(found[4])
  if not most or not rate or not unlisted then  -- an older release made this log
    return
  elseif redis.call('HLEN', LOG) - unlisted >= most then
    return 'MANY'
  end
  local left, since = string.match(found[3] or '', '^(%S+) (%d+)$')
  local full, now = rate * SECONDS_AT_ONCE, milliseconds()
  left = math.min(full, (tonumber(left) or full) + math.max(0, now - (tonumber(since) or now)) * rate / 1000)
  local fast = left < 1
  redis.call('HSET', LOG, 'making', string.format('%.3f', fast and left or left - 1) .. ' ' .. whole(now))
  return fast and 'FAST' or nil
end

local function list_room(room, name)
  redis.call('ZADD', ROOMS, 0, name)
  save_room(room, name)
end

-- Create the log of a room's properties, and the room if it isn't there. Returns why not, if it can't be created.
local function create_properties(log, owner)
  local room = {}
  room.top, room.begun, room.there = room_state(SCOPE .. ':stream:' .. owner, epoch)
  local refusal = not room.there and creation_refusal()
  if refusal then
    return refusal
  elseif not room.there then
    list_room(room, owner)
  end
  redis.call('HINCRBY', LOG, 'unlisted', 1)
  redis.call('HSET', properties_of(owner), '', whole(log.top) .. ' 0')
  save_room(log, owner .. '/properties')
end

-- Create a room. Returns why not, if it can't be created.
local function create(room)
  local name = room_of(room.stream)
  local owner = owner_of(name)
  if owner then
    room.refusal = create_properties(room, owner)
  else
    room.refusal = room.refusal or creation_refusal()
    if not room.refusal then
      list_room(room, name)
    end
  end
  room.there = not room.refusal
  return room.refusal
end

local function row_at(room, offset)
  local entry = redis.call('XRANGE', room.stream, whole(offset), whole(offset))[1]
  return entry and field(entry, 'm') or ''
end

local function add(room, at, row, name, digest)
  local top = room.top + 1
  if name == '' then
    redis.call('XADD', room.stream, whole(top) .. '-0', 'm', row)
  else
    redis.call('XADD', room.stream, whole(top) .. '-0', 'm', row, 'k', name)
    redis.call('HSET', room.keys, name, whole(top) .. ' ' .. whole(at) .. ' ' .. digest .. ' ' .. whole(elapsed))
  end
  room.top = top
  room.rows[#room.rows + 1] = row
end

-- Delete the entry of a property that is set again or removed, and keep its key.
local function delete_property(log, offset)
  local entry = redis.call('XRANGE', log.stream, whole(offset), whole(offset))[1]
  if entry then
    keep_key(log.stream, log.keys, entry, elapsed_in_log)
    redis.call('XDEL', log.stream, entry[1])
  end
end

-- Whether a room may have a property: whether the others and this one are not too many, and not too large.
local function has_space(index, is_new, bytes)
  local most, most_bytes = unpack(redis.call('HMGET', LOG, 'properties', 'property_bytes'))
  return redis.call('HLEN', index) - 1 + (is_new and 1 or 0) <= tonumber(most or 0) and bytes <= tonumber(most_bytes or 0)
end

-- File the key of a removal, which has no entry in the stream.
local function file_key(log, at, name, digest)
  redis.call('HSET', deleted_keys(generation(elapsed_in_log)), shared_name(log.stream, name),
    whole(log.top) .. ' ' .. whole(at) .. ' ' .. digest .. ' ' .. whole(elapsed))
end

-- Set a property, or remove it. Returns what append returns.
local function set(log, at, row, name, digest, property)
  local index = properties_of(owner_of(room_of(log.stream)))
  local size, of = string.match(property, '^(%d*):(.*)$')
  local offset, bytes_before = read_property(index, of)
  local removed, bytes = read_property(index, '')
  if size == '' and not offset then
    if log.there and name ~= '' then
      file_key(log, at, name, digest)
    end
    return {log.top, whole(at), ''}
  end
  bytes = (bytes or 0) - (bytes_before or 0) + (tonumber(size) or 0)
  if size ~= '' and log.there and not has_space(index, not offset, bytes) then
    return 'FULL'
  elseif not log.there and create(log) then
    return log.refusal
  elseif offset then
    delete_property(log, offset)
  end
  if size == '' then
    log.top = log.top + 1
    log.rows[#log.rows + 1] = row
    removed = log.top
    redis.call('HDEL', index, of)
    if name ~= '' then
      file_key(log, at, name, digest)
    end
  else
    add(log, at, row, name, digest)
    redis.call('HSET', index, of, whole(log.top) .. ' ' .. size)
  end
  redis.call('HSET', index, '', whole(removed or read_property(index, '')) .. ' ' .. whole(bytes))
  return log.top
end

-- Save the state of a room, announce the new messages, and trim.
local function finish(room)
  local added = #room.rows
  if added == 0 then
    return
  end
  local name = room_of(room.stream)
  save_room(room, name)
  redis.call('PUBLISH', SCOPE .. ':room:' .. name,
    'm' .. epoch .. ':' .. whole(room.top - added + 1) .. ' ' .. added .. '\n' .. table.concat(room.rows, '\n'))
  local most = kept(name, count, namespace_count)
  local slack = slack_of(most)
  if not owner_of(name) and redis.call('XLEN', room.stream) >= most + slack then
    trim(room.stream, room.keys, room.top - most + 1, 4 * slack)
  end
end

local function append(number, at, row, name, digest, cutoff, after)
  local room = open_room(number)
  local first = name ~= '' and find_published(room, name, cutoff)
  if not first and owner_of(room_of(room.stream)) then
    return set(room, at, row, name, digest, after)
  elseif not first and after ~= '' and not find_published(room, after, cutoff) then
    return 'BEFORE'
  elseif not first then
    if not room.there and create(room) then
      return room.refusal
    end
    add(room, at, row, name, digest)
    return room.top
  elseif first.digest ~= digest then
    return 'REUSED'
  end
  return {first.offset, whole(first.at), row_at(room, first.offset)}
end

-- Keys of deleted messages are filed by the elapsed time of the log, so that it must not be far behind.
local function advance_if_behind()
  if elapsed - elapsed_in_log > BEHIND then
    elapsed_in_log = advance_elapsed(elapsed)
  end
end

local function append_all(slot, number)
  local answer = {}
  advance_if_behind()
  for index = 8, #ARGV, 6 do
    answer[#answer + 1] = append(
      tonumber(ARGV[index]), tonumber(ARGV[index + 1]), ARGV[index + 2], ARGV[index + 3], ARGV[index + 4],
      tonumber(ARGV[6]), ARGV[index + 5])
  end
  for _, room in pairs(rooms) do
    finish(room)
  end
  redis.call('SET', slot, number .. ' ' .. cmsgpack.pack(answer), 'PX', REMEMBERED_MILLISECONDS)
  return answer
end

-- The answer that is remembered for a batch, if it was stored.
local function remembered_answer(slot, number)
  local found = redis.call('GET', slot)
  if found and string.sub(found, 1, #number + 1) == number .. ' ' then
    return cmsgpack.unpack(string.sub(found, #number + 2))
  end
end

local function with_epoch(answer)
  table.insert(answer, 1, epoch)
  return answer
end

-- The form for other programs, which may send anything.

local MAX_DEPTH = 31
local CONTROL = '[%z\1-\31\127]'
local NUMBERS = {'^-?0$', '^-?[1-9]%d*$', '^-?0%.%d+$', '^-?[1-9]%d*%.%d+$'}

-- Whether a text is well-formed UTF-8 (RFC 3629, section 4).
local function is_utf8(text)
  if not string.find(text, '[\128-\255]') then
    return true
  end
  local rest = string.gsub(text, '[\194-\223][\128-\191]', '')
  for _, three in ipairs({'\224[\160-\191][\128-\191]', '[\225-\236\238\239][\128-\191][\128-\191]',
      '\237[\128-\159][\128-\191]', '\240[\144-\191][\128-\191][\128-\191]',
      '[\241-\243][\128-\191][\128-\191][\128-\191]', '\244[\128-\143][\128-\191][\128-\191]'}) do
    rest = string.gsub(rest, three, '')
  end
  return not string.find(rest, '[\128-\255]')
end

local function characters(text)
  return #string.gsub(text, '[\128-\191]', '')
end

local function is_number(token)
  local mantissa = string.gsub(token, '[eE][+-]?%d+$', '')
  for _, pattern in ipairs(NUMBERS) do
    if string.find(mantissa, pattern) then
      return true
    end
  end
  return false
end

-- How deep the brackets nest in JSON whose strings were removed.
local function depth(bare)
  local deepest, now = 0, 0
  for bracket in string.gmatch(bare, '[%[%]{}]') do
    now = now + ((bracket == '[' or bracket == '{') and 1 or -1)
    deepest = math.max(deepest, now)
  end
  return deepest
end

-- Whether a text is JSON. cjson accepts more than that: other numbers, words and control characters.
local function is_json(text)
  local good, decoded = pcall(cjson.decode, '[' .. text .. ']')
  if not good or #decoded ~= 1 then
    return false
  end
  local bare = string.gsub(string.gsub(text, '\\.', ''), '"[^"]*"', '')
  for token in string.gmatch(bare, '[^%s%[%]{},:]+') do
    if token ~= 'true' and token ~= 'false' and token ~= 'null' and not is_number(token) then
      return false
    end
  end
  return depth(bare) <= MAX_DEPTH and not string.find(text, '[%z\1-\8\11\12\14-\31]')
end

local function is_plain(text, most)
  return text ~= '' and characters(text) <= most and is_utf8(text) and not string.find(text, CONTROL)
end

-- What is wrong with a message; nil if it is valid.
local function invalid(room, event, id, name, data, key)
  if not string.find(room, '^[%w_.:@~-]+$') or #room > 128 or room == '.' or room == '..' then
    return "a room's name is 1 to 128 characters of A-Z a-z 0-9 _ - . : @ ~, and neither . nor .."
  elseif KEYS[3] ~= SCOPE .. ':keys:' .. room or KEYS[2] ~= SCOPE .. ':stream:' .. room then
    return 'the keys are SCOPE:log SCOPE:stream:ROOM SCOPE:keys:ROOM, with the same scope and room'
  elseif not data then
    return 'the arguments are EVENT, SENDER ID, SENDER NAME, DATA and perhaps KEY'
  elseif not is_plain(event, 128) or string.sub(event, 1, 1) == '$' then
    return 'event is 1 to 128 characters without control characters, and begins with no $'
  elseif not is_plain(id, 128) or not is_plain(name, 64) then
    return "the sender's id is 1 to 128 and the name 1 to 64 characters without control characters"
  elseif key ~= '' and not is_plain(key, 128) then
    return 'key is 1 to 128 characters without control characters'
  elseif #data > max then
    return 'the data are more than the ' .. max .. ' bytes that a message may have'
  elseif not is_utf8(data) or not is_json(data) then
    return 'the data are one JSON value in UTF-8, nested at most ' .. MAX_DEPTH .. ' deep'
  end
end

local REFUSALS = {
  REUSED = 'KEYREUSED this key was used for another message in this room',
  MANY = 'MANYROOMS there are as many rooms as there may be; rooms that exist take messages',
  FAST = 'FASTROOMS rooms are made faster than they may be; try again in a moment, rooms that exist take messages',
}

local function append_one(event, id, name, data, key)
  key = key or ''
  local room = room_of(KEYS[2])
  local wrong = invalid(room, event, id, name, data, key)
  if wrong then
    return redis.error_reply('BADMESSAGE ' .. wrong)
  end
  data = string.gsub(data, '[\r\n\t]', ' ')
  local at = milliseconds()
  local row = '[' .. whole(at) .. ',' .. cjson.encode(event) .. ',' .. cjson.encode(id) .. ',' .. cjson.encode(name)
    .. ',' .. (key == '' and 'null' or cjson.encode(key)) .. ',' .. data .. ']'
  local entry = key == '' and '' or #id .. ':' .. id .. ':' .. key
  local outcome = append(
    1, at, row, entry, 'text:' .. redis.sha1hex(event .. '\n' .. data), age and at - age or 0, '')
  finish(rooms[1])
  if REFUSALS[outcome] then
    return redis.error_reply(REFUSALS[outcome])
  elseif type(outcome) == 'table' then
    return {'duplicate', epoch .. ':' .. whole(outcome[1])}
  end
  return {'stored', epoch .. ':' .. whole(outcome)}
end

if is_external then
  return append_one(unpack(ARGV))
end
local slot = SCOPE .. ':done:' .. ARGV[3]
local before = remembered_answer(slot, ARGV[4])
if before then
  return with_epoch(before)
elseif known[1] ~= ARGV[1] then
  return redis.error_reply('OTHERLOG the log was last used in another run of this server')
elseif milliseconds() > tonumber(ARGV[2]) then
  return redis.error_reply('LATE this was to be stored earlier')
elseif ARGV[7] ~= '' and not remembered_answer(SCOPE .. ':done:' .. ARGV[7], whole(ARGV[4] - 1)) then
  return redis.error_reply('EARLY what was sent before this was not stored')
end
return with_epoch(append_all(slot, ARGV[4]))
