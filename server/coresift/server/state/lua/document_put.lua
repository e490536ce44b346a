-- Writes a document if it still is what the caller read.
-- KEYS: 1 index of the space (sorted set, all scores 0; documents that end are not in it,
--   for nothing would take them out), 2 document (string).
-- ARGV: 1 name, 2 value, 3 "1" if there must be one now, 4 what it must be, 5 time to live in ms
--   (0: for ever).
-- Reply: nil when written; else what stands there, empty if nothing.

local now = redis.call('GET', KEYS[2])
if ARGV[3] == '1' and now ~= ARGV[4] or ARGV[3] ~= '1' and now then
  return now or ''
end
if ARGV[5] == '0' then
  redis.call('SET', KEYS[2], ARGV[2])
  redis.call('ZADD', KEYS[1], 0, ARGV[1])
else
  redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[5])
end
return false
