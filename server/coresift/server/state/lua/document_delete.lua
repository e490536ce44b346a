-- Removes a document, or only if it still is what the caller read.
-- KEYS: 1 index of the space (sorted set), 2 document (string).
-- ARGV: 1 name, 2 "1" if it must be the third, 3 what it must be.
-- Reply: 1 if it was removed, else 0.

if ARGV[2] == '1' and redis.call('GET', KEYS[2]) ~= ARGV[3] then
  return 0
end
local there = redis.call('EXISTS', KEYS[2])
redis.call('DEL', KEYS[2])
redis.call('ZREM', KEYS[1], ARGV[1])
return there
