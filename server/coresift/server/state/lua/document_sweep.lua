-- Takes documents that ended by time to live out of the index of their space.
-- KEYS: 1 index of the space (sorted set), 2... documents (strings).
-- ARGV: their names, in the same order.
-- Reply: how many left the index.

local gone = 0
for i, name in ipairs(ARGV) do
  if redis.call('EXISTS', KEYS[i + 1]) == 0 then
    gone = gone + redis.call('ZREM', KEYS[1], name)
  end
end
return gone
