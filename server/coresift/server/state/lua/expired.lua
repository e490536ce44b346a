-- Says whether a session's data may be removed; if so, nothing brings the session back any more.
-- Reply: "live"; "deleted", when it may be purged, 1 if that time has come; "moved", the name
--   record of where the session lives on; "missing" where there is none, or none any more.

local uid, moved = unpack(redis.call('HMGET', KEYS[META], 'uid', 'moved'))
if moved then
  return {'moved', moved}
end
if uid ~= ARGV[1] then
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
if ends <= s.now then
  -- A clock that goes back must not let undelete in once the removal has begun.
  redis.call('HSET', KEYS[META], 'now', s.now)
end
return {'deleted', string.format('%.0f', ends), ends <= s.now and 1 or 0}
