-- Hides a session.
-- Arguments: d digest. Answer: p when it may be purged. Reply: "done", the answer.

local a = cmsgpack.unpack(ARGV[2])
local s, no = open(true)
if not s then
  return no
end
local again = replay(s, 'delete', a.d)
if again then
  return again
end
if s.deleted then
  return refused('SESSION_NOT_FOUND')
end
redis.call('HSET', KEYS[META], 'deleted', s.now, 'now', s.now)
return {'done', keep_answer({o = 'delete', d = a.d, p = s.now + ANSWER_MS})}
