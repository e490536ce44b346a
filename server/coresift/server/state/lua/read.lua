-- Reads a session.
-- Reply: "record", the record; "missing" where the session was never created from its name record;
--   "moved", the name record of the session that it lives on as.

if redis.call('EXISTS', KEYS[META]) == 0 then
  return {'missing'}
end
local moved = redis.call('HGET', KEYS[META], 'moved')
if moved then
  return {'moved', moved}
end
local s, no = open()
return no or {'record', record(s)}
