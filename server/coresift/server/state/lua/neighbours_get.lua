-- Reads neighbours of up to 1,000 rows.
-- KEYS: 11 neighbours (hash: row -> int32 numbers).
-- ARGV: 2... rows.
-- Reply: "done", a value (or nil) for each row.

local s, no = open()
if not s then
  return no
end
return {'done', redis.call('HMGET', KEYS[11], unpack(ARGV, 2))}
