-- Brings a hidden session back, unless its time is over.
-- Arguments: d digest. Answer: r the record.
-- Reply: "done", the answer; or "replayed", the answer, 1 if the session is hidden again.

local a = cmsgpack.unpack(ARGV[2])
local s, no = open(true)
if not s then
  return no
end
local again = replay(s, 'undelete', a.d)
if again then
  again[3] = again[1] == 'replayed' and (s.deleted and 1 or 0) or again[3]
  return again
end
if not s.deleted or s.deleted + ANSWER_MS <= s.now then
  return refused('SESSION_NOT_FOUND')
end
redis.call('HDEL', KEYS[META], 'deleted')
redis.call('HSET', KEYS[META], 'now', s.now)
return {'done', keep_answer({o = 'undelete', d = a.d, r = record(s)})}
