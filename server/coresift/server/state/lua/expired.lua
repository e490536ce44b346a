-- Says whether a session's data may be removed.
-- Reply: "live"; "deleted", when it may be purged, 1 if that time has come, the names of
--   its tables of neighbours, comma-separated; "missing".

if redis.call('EXISTS', KEYS[META]) == 0 then
  return {'missing'}
end
local s, no = open(true)
if not s then
  return no
end
if not s.deleted then
  return {'live'}
end
local ends = s.deleted + ANSWER_MS
local tables = redis.call('HGET', KEYS[META], 'tables') or ''
return {'deleted', string.format('%.0f', ends), ends <= s.now and 1 or 0, tables}
