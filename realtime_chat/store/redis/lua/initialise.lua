-- Make sure that there is a log, and that it is of this run of the server.
--
-- KEYS: the log.
-- ARGV: the server's run_id; 1 if it loses nothing that it has answered; the epoch and the secret of a new log; count, age,
--       max, rooms and rate, as the log has them; the hash of append.lua; an epoch that was found to lack messages, or
--       nothing; what has elapsed, as this node believes.
-- Answers: the epoch, the secret, Redis' time in milliseconds, and what has elapsed.

local run_id, safe, new_epoch, secret, count, age, max, rooms, rate, append, doubtful, told = unpack(ARGV)
local known = redis.call('HMGET', LOG, 'run_id', 'epoch', 'safe')
local epoch = known[2]
local lossless = known[1] == run_id or (known[3] == '1' and safe == '1')

if not epoch or not lossless or epoch == doubtful then
  epoch = new_epoch
end
redis.call('HSETNX', LOG, 'secret', secret)
redis.call('HSETNX', LOG, 'floor', 0)
redis.call('HSETNX', LOG, 'making', '')
redis.call('HSETNX', LOG, 'elapsed', 0)
redis.call('HSET', LOG, 'run_id', run_id, 'safe', safe, 'epoch', epoch, 'count', count, 'age', age, 'max', max,
  'rooms', rooms, 'rate', rate, 'append', append)
if not is_listed() then
  list_all()
end
local time = redis.call('TIME')
return {epoch, redis.call('HGET', LOG, 'secret'), time[1] * 1000 + math.floor(time[2] / 1000), pass(tonumber(told))}
