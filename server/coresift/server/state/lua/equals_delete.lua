-- Deletes a string if it still is what the caller read.
-- KEYS: 1 string. ARGV: 1 what it must be. Reply: 1 if deleted, else 0.

if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0
