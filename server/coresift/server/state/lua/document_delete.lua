-- Removes a document.
-- KEYS: 1 index of the space (sorted set), 2 document (string).
-- ARGV: 1 name.
-- Reply: 1 if there was one, else 0.

local there = redis.call('EXISTS', KEYS[2])
redis.call('DEL', KEYS[2])
redis.call('ZREM', KEYS[1], ARGV[1])
return there
