-- Replaces a string if it still is what the caller read; again: nothing.
-- KEYS: 1 string. ARGV: 1 what it must be, 2 what it becomes. Reply: 1 if it is that now, else 0.

local now = redis.call('GET', KEYS[1])
if now == ARGV[1] then
  redis.call('SET', KEYS[1], ARGV[2])
end
return (now == ARGV[1] or now == ARGV[2]) and 1 or 0
