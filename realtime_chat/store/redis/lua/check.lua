-- Check which log there is.
--
-- KEYS: the log.
-- ARGV: 1 to check that Redis accepts writes; the elapsed time of this node.
-- Returns: the run_id and the epoch, both empty if there is no log; Redis' time in milliseconds; and the elapsed time.

local run_id, epoch = unpack(redis.call('HMGET', LOG, 'run_id', 'epoch'))
if ARGV[1] == '1' and run_id then
  redis.call('HSET', LOG, 'run_id', run_id)
end
local elapsed = epoch and advance_elapsed(tonumber(ARGV[2])) or 0
local time = redis.call('TIME')
return {run_id or '', epoch or '', time[1] * 1000 + math.floor(time[2] / 1000), elapsed}
