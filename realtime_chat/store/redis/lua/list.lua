-- List the names of some rooms, in the order of their bytes.
--
-- KEYS: the log.
-- ARGV: the run_id; the name after which the list begins, or nothing; the most names.
-- Returns: the names.
-- Errors: NOLOG, OTHERLOG.

local run_id, after, limit = unpack(ARGV)
local known = redis.call('HMGET', LOG, 'run_id', 'epoch')
if not known[2] then
  return redis.error_reply('NOLOG there is no log; whoever keeps it has to begin one')
elseif known[1] ~= run_id then
  return redis.error_reply('OTHERLOG the log was last used in another run of this server')
elseif not is_listed() then
  rebuild_list()
end
return redis.call('ZRANGEBYLEX', ROOMS, after == '' and '-' or '(' .. after, '+', 'LIMIT', 0, limit)
