-- Append to rooms, and announce it; once for each idempotency key.
--
-- The daemon's form: KEYS are the log, then for each room its stream and the hash of its keys. ARGV are the server's
-- run_id, the time by Redis' clock (milliseconds) after which nothing is stored any more, where the answer is remembered
-- and under which number, what has elapsed, the lowest "at" that is young enough, where that of the number before is
-- remembered if it was sent and has no answer yet, and then six for each message: the number of its room, its "at", its row
-- (redis/rows.py), the name of its key or nothing, the digest of its content, and the name of the key that has to be there
-- before, or nothing. Who didn't get the answer may ask again with the same number.
-- Answers: the epoch, then for each message its offset; or, where its key is known, either REUSED (for other content) or
-- a list of the first message's offset, its "at" and its row (or nothing, if only the key is left); or, where its room
-- would have to be made, MANY (there are too many) or FAST (too many were made just now); or BEFORE, where what has to be
-- there before is not.
--
-- The form for other programs: KEYS are SCOPE:log, SCOPE:stream:ROOM and SCOPE:keys:ROOM. ARGV are the event, the sender's
-- id and name, the data as JSON, and perhaps a key. Answers "stored" or "duplicate", and the position.
--
-- Errors: NOLOG, OTHERLOG, LATE, EARLY: nothing is stored, and the daemon begins the log or tries again.
--         BADMESSAGE, KEYREUSED, MANYROOMS, FASTROOMS: for other programs; the text says what is wrong.

local REMEMBERED_MILLISECONDS = 10000
local SECONDS_AT_ONCE = 20

local known = redis.call('HMGET', LOG, 'run_id', 'epoch', 'count', 'age', 'max', 'elapsed')
if not known[2] then
  return redis.error_reply('NOLOG there is no log; a daemon has to be started with this store first')
end
local epoch, count, age, max = known[2], tonumber(known[3]), tonumber(known[4]), tonumber(known[5])
local plain = #KEYS == 3 and #ARGV < 12
local elapsed_there = tonumber(known[6] or 0)
local elapsed = plain and elapsed_there or math.max(elapsed_there, tonumber(ARGV[5]))

local function milliseconds()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local rooms = {}

-- The room of a number, opened once.
local function opened(number)
  local room = rooms[number]
  if not room then
    room = {stream = KEYS[2 * number], keys = KEYS[2 * number + 1], rows = {}}
    room.top, room.begun, room.there = standing(room.stream, epoch)
    rooms[number] = room
  end
  return room
end

-- What stands under a key.
local function find(room, name)
  local value = redis.call('HGET', room.keys, name)
  for back = 0, value and -1 or 1 do
    value = value or redis.call('HGET', gone(generation(elapsed_there) - back), lone_name(room.stream, name))
  end
  return value
end

-- What was published under a key, if that still counts: "at", offset and digest.
local function published(room, name, cutoff)
  local value = find(room, name)
  if not value then
    return
  end
  local offset, at, digest, made = read_entry(value)
  if (offset > room.top - count and at >= cutoff) or elapsed - made <= KEY_MILLISECONDS + BEHIND then
    return {offset = offset, at = at, digest = digest}
  end
end

-- Remember where a room stands.
local function note(room, name)
  redis.call('HSET', LOG, 'room:' .. name, whole(room.top) .. ' ' .. epoch .. ' ' .. whole(room.begun))
end

-- Why a room can't be made; nothing where it can, which counts then. The time is Redis' own, as nodes' clocks differ.
local function refusal()
  local said = redis.call('HMGET', LOG, 'rooms', 'rate', 'making', 'unlisted')
  local most, rate, unlisted = tonumber(said[1]), tonumber(said[2]), tonumber(said[4])
  if not most or not rate or not unlisted then  -- no node has said so yet
    return
  elseif redis.call('HLEN', LOG) - unlisted >= most then
    return 'MANY'
  end
  local left, since = string.match(said[3] or '', '^(%S+) (%d+)$')
  local full, now = rate * SECONDS_AT_ONCE, milliseconds()
  left = math.min(full, (tonumber(left) or full) + math.max(0, now - (tonumber(since) or now)) * rate / 1000)
  local fast = left < 1
  redis.call('HSET', LOG, 'making', string.format('%.3f', fast and left or left - 1) .. ' ' .. whole(now))
  return fast and 'FAST' or nil
end

-- Make a room, if it isn't there and can be.
local function make(room)
  room.refusal = room.refusal or refusal()
  if not room.refusal then
    local name = room_of(room.stream)
    room.there = true
    redis.call('ZADD', ROOMS, 0, name)
    note(room, name)
  end
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

-- Remember where a room stands, tell everybody, and delete what is too much.
local function close(room)
  local added = #room.rows
  if added == 0 then
    return
  end
  local name = room_of(room.stream)
  note(room, name)
  redis.call('PUBLISH', SCOPE .. ':room:' .. name,
    'm' .. epoch .. ':' .. whole(room.top - added + 1) .. ' ' .. added .. '\n' .. table.concat(room.rows, '\n'))
  local slack = slack_of(count)
  if redis.call('XLEN', room.stream) >= count + slack then
    trim(room.stream, room.keys, room.top - count + 1, 4 * slack)
  end
end

local function append(number, at, row, name, digest, cutoff, after)
  local room = opened(number)
  local first = name ~= '' and published(room, name, cutoff)
  if not first and after ~= '' and not published(room, after, cutoff) then
    return 'BEFORE'
  elseif not first then
    if not room.there and make(room) then
      return room.refusal
    end
    add(room, at, row, name, digest)
    return room.top
  elseif first.digest ~= digest then
    return 'REUSED'
  end
  return {first.offset, whole(first.at), row_at(room, first.offset)}
end

-- What goes now is filed by what had elapsed in the log, which mustn't be far behind.
local function catch_up()
  if elapsed - elapsed_there > BEHIND then
    elapsed_there = pass(elapsed)
  end
end

local function append_all(place, number)
  local answer = {}
  catch_up()
  for index = 8, #ARGV, 6 do
    answer[#answer + 1] = append(
      tonumber(ARGV[index]), tonumber(ARGV[index + 1]), ARGV[index + 2], ARGV[index + 3], ARGV[index + 4],
      tonumber(ARGV[6]), ARGV[index + 5])
  end
  for _, room in pairs(rooms) do
    close(room)
  end
  redis.call('SET', place, number .. ' ' .. cmsgpack.pack(answer), 'PX', REMEMBERED_MILLISECONDS)
  return answer
end

-- What was answered under a number before.
local function answered(place, number)
  local said = redis.call('GET', place)
  if said and string.sub(said, 1, #number + 1) == number .. ' ' then
    return cmsgpack.unpack(string.sub(said, #number + 2))
  end
end

local function with_epoch(answer)
  table.insert(answer, 1, epoch)
  return answer
end

-- For other programs, who may send anything.

local MAX_DEPTH = 31
local CONTROL = '[%z\1-\31\127]'
local NUMBERS = {'^-?0$', '^-?[1-9]%d*$', '^-?0%.%d+$', '^-?[1-9]%d*%.%d+$'}

-- Whether it is well-formed UTF-8 (RFC 3629, section 4).
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

-- How deep brackets nest in JSON without its strings.
local function depth(bare)
  local deepest, now = 0, 0
  for bracket in string.gmatch(bare, '[%[%]{}]') do
    now = now + ((bracket == '[' or bracket == '{') and 1 or -1)
    deepest = math.max(deepest, now)
  end
  return deepest
end

-- Whether it is JSON: cjson takes more than that, in numbers, words and control characters.
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

-- What is wrong with a message; nil if nothing is.
local function fault(room, event, id, name, data, key)
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
  local wrong = fault(room, event, id, name, data, key)
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
  close(rooms[1])
  if REFUSALS[outcome] then
    return redis.error_reply(REFUSALS[outcome])
  elseif type(outcome) == 'table' then
    return {'duplicate', epoch .. ':' .. whole(outcome[1])}
  end
  return {'stored', epoch .. ':' .. whole(outcome)}
end

if plain then
  return append_one(unpack(ARGV))
end
local place = SCOPE .. ':done:' .. ARGV[3]
local before = answered(place, ARGV[4])
if before then
  return with_epoch(before)
elseif known[1] ~= ARGV[1] then
  return redis.error_reply('OTHERLOG the log was last used in another run of this server')
elseif milliseconds() > tonumber(ARGV[2]) then
  return redis.error_reply('LATE this was to be stored earlier')
elseif ARGV[7] ~= '' and not answered(SCOPE .. ':done:' .. ARGV[7], whole(ARGV[4] - 1)) then
  return redis.error_reply('EARLY what was sent before this was not stored')
end
return with_epoch(append_all(place, ARGV[4]))
