-- Reads a session.
-- Reply: "record", the record; "missing" where the session was never created from its name record.

if redis.call('EXISTS', KEYS[META]) == 0 then
  return {'missing'}
end
local _, no = open()
return no or {'record', record()}
