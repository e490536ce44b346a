-- Looks at leases.
-- ARGV: 1 uid; 2 a packed list of up to 1,000 members ("row:annotator").
-- Reply: "leases", for each its deadline, empty if it is not live; how many are live in all.

local members = cmsgpack.unpack(ARGV[2])
local s, no = open()
if not s then
  return no
end
local deadlines = {}
if #members > 0 then
  deadlines = redis.call('ZMSCORE', KEYS[LEASES], unpack(members))
end
for i = 1, #members do
  deadlines[i] = deadlines[i] and tonumber(deadlines[i]) > s.now and deadlines[i] or ''
end
local after = string.format('(%.0f', s.now)
return {'leases', deadlines, redis.call('ZCOUNT', KEYS[LEASES], after, '+inf')}
