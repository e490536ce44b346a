-- Keeps neighbours of up to 1,000 rows.
-- KEYS: 11 neighbours (hash: row -> int32 numbers).
-- ARGV: 2 name of the table, 3 the neighbours one row after the other, 4... rows.
-- Reply: "done".

local s, no = open()
if not s then
  return no
end
local width = #ARGV[3] / (#ARGV - 3)
local fields = {}
for i = 4, #ARGV do
  local at = (i - 4) * width
  fields[#fields + 1] = ARGV[i]
  fields[#fields + 1] = string.sub(ARGV[3], at + 1, at + width)
end
local tables = redis.call('HGET', KEYS[META], 'tables') or ''
if not string.find(',' .. tables .. ',', ',' .. ARGV[2] .. ',', 1, true) then
  redis.call('HSET', KEYS[META], 'tables', tables == '' and ARGV[2] or tables .. ',' .. ARGV[2])
end
in_batches('HSET', KEYS[11], fields)
return {'done'}
