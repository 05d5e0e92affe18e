-- Create the log if there is none, and bind it to this run of Redis.
--
-- KEYS: the log.
-- ARGV: the run_id; 1 if Redis loses nothing that it has answered; the epoch and the secret of a new log; count, age, max,
--       rooms and rate, as in the log; the hash of append.lua; an epoch that lacks messages, or nothing; the elapsed time
--       of this node; namespace_count; properties and property_bytes, as in the log.
-- Returns: the epoch, the secret, Redis' time in milliseconds, and the elapsed time.

local run_id, safe, new_epoch, secret, count, age, max, rooms, rate, append, damaged_epoch, elapsed,
  namespace_count, properties, property_bytes = unpack(ARGV)
local known = redis.call('HMGET', LOG, 'run_id', 'epoch', 'safe')
local epoch = known[2]
local lossless = known[1] == run_id or (known[3] == '1' and safe == '1')

if not epoch or not lossless or epoch == damaged_epoch then
  epoch = new_epoch
end
redis.call('HSETNX', LOG, 'secret', secret)
redis.call('HSETNX', LOG, 'floor', 0)
redis.call('HSETNX', LOG, 'making', '')
redis.call('HSETNX', LOG, 'elapsed', 0)
redis.call('HSET', LOG, 'run_id', run_id, 'safe', safe, 'epoch', epoch, 'count', count, 'age', age, 'max', max,
  'rooms', rooms, 'rate', rate, 'append', append, 'namespace_count', namespace_count,
  'properties', properties, 'property_bytes', property_bytes)
if not is_listed() then
  rebuild_list()
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
return {epoch, redis.call('HGET', LOG, 'secret'), now, advance_elapsed(tonumber(elapsed))}
