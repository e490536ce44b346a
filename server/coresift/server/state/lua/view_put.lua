-- Notes the file of a view, unless the log no longer begins with that view or one further on is
-- noted that it does begin with.
-- KEYS: 11 view (hash: format, offset, tip, size, file).
-- Arguments: f format, p offset, t tip, z size, h the file's content hash.
-- Reply: "done", the content hash of the file that is not needed (any more), empty for none.

local a = cmsgpack.unpack(ARGV[2])
local s, no = open()
if not s then
  return no
end
local kept = redis.call('HMGET', KEYS[11], 'offset', 'tip', 'file')
local stands = kept[1] and begins_with(s, tonumber(kept[1]), kept[2])
if not begins_with(s, a.p, a.t) or (stands and tonumber(kept[1]) >= a.p) then
  return {'done', kept[3] ~= a.h and a.h or ''}
end
redis.call('HSET', KEYS[11], 'format', a.f, 'offset', a.p, 'tip', a.t, 'size', a.z, 'file', a.h)
return {'done', kept[3] and kept[3] ~= a.h and kept[3] or ''}
