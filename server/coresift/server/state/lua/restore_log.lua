-- Writes a piece of the log of a session that is not there yet; again: nothing.
-- Arguments: p position before the piece, e packed entries.
-- Reply: "done"; "gap", the newest position, where another one is the one before.

local a = cmsgpack.unpack(ARGV[2])
local newest = redis.call('XREVRANGE', KEYS[LOG], '+', '-', 'COUNT', 1)
local pos = newest[1] and tonumber(string.match(newest[1][1], '%d+')) or 0
if pos == a.p + #a.e then
  return {'done'}
end
if pos ~= a.p or redis.call('EXISTS', KEYS[META]) == 1 then
  return {'gap', string.format('%.0f', pos)}
end
for i, entry in ipairs(a.e) do
  redis.call('XADD', KEYS[LOG], string.format('%.0f-0', a.p + i), 'e', entry)
end
return {'done'}
