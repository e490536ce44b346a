-- Reads which file holds a view of the session.
-- KEYS: 11 view (hash: format, offset, tip, size, file).
-- Reply: "view", format, offset, tip, size, content hash; "none" where there is none, or none that
--   the log begins with.

local s, no = open()
if not s then
  return no
end
local kept = redis.call('HMGET', KEYS[11], 'format', 'offset', 'tip', 'size', 'file')
if not kept[2] or not begins_with(s, tonumber(kept[2]), kept[3]) then
  return {'none'}
end
return {'view', unpack(kept)}
