-- Publishes the head of the newest revision and configuration; one of an older is dropped.
-- KEYS: 11 head (hash: key, head).
-- ARGV: 2 key (store.py: head_key), 3 head.
-- Reply: "done".

local s, no = open()
if not s then
  return no
end
if ARGV[2] == current_head(s) then
  redis.call('HSET', KEYS[11], 'key', ARGV[2], 'head', ARGV[3])
end
return {'done'}
