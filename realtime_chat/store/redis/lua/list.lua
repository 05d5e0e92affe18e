-- The names of some rooms, in the order of their bytes.
--
-- KEYS: the log.
-- ARGV: the server's run_id; the name that they follow, or nothing; how many at most.
-- Answers: the names.
-- Errors: NOLOG, OTHERLOG.

local run_id, after, limit = unpack(ARGV)
local known = redis.call('HMGET', LOG, 'run_id', 'epoch')
if not known[2] then
  return redis.error_reply('NOLOG there is no log; whoever keeps it has to begin one')
elseif known[1] ~= run_id then
  return redis.error_reply('OTHERLOG the log was last used in another run of this server')
elseif not is_listed() then
  list_all()
end
return redis.call('ZRANGEBYLEX', ROOMS, after == '' and '-' or '(' .. after, '+', 'LIMIT', 0, limit)
