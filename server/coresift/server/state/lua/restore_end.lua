-- Makes a session of what was restored; again: nothing.
-- Arguments: i session_id, p newest position, m fields and values of meta besides uid and id.
-- Reply: "record", the record; "gap", the newest position, where the log does not end at p.

local a = cmsgpack.unpack(ARGV[2])
local fields = {}
for i = 1, #a.m, 2 do
  fields[a.m[i]] = a.m[i + 1]
end
if tonumber(fields.format) > FORMAT then
  return refused('FORMAT_TOO_NEW', fields.format)
end
local newest = redis.call('XREVRANGE', KEYS[LOG], '+', '-', 'COUNT', 1)
local pos = newest[1] and string.match(newest[1][1], '%d+') or '0'
if tonumber(pos) ~= a.p then
  return {'gap', pos}
end
if redis.call('EXISTS', KEYS[META]) == 0 then
  -- What belongs to this place comes last: nothing in a file may say otherwise.
  redis.call('HSET', KEYS[META], unpack(a.m))
  redis.call('HSET', KEYS[META], 'uid', ARGV[1], 'id', a.i)
end
local s, no = open()
return no or {'record', record(s)}
