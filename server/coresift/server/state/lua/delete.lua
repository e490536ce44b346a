-- Hides a session.
-- Arguments: d digest. Answer: p when it may be purged.
-- Reply: "done", the answer; or "replayed", the answer, 1 if the session is hidden still (0: it was
--   brought back since).

local a = cmsgpack.unpack(ARGV[2])
local s, no = open(true)
if not s then
  return no
end
local again = replay(s, 'delete', a.d)
if again then
  again[3] = again[1] == 'replayed' and (s.deleted and 1 or 0) or again[3]
  return again
end
if s.deleted then
  return refused('SESSION_NOT_FOUND')
end
redis.call('HSET', KEYS[META], 'deleted', s.now, 'now', s.now)
return {'done', keep_answer({o = 'delete', d = a.d, p = s.now + ANSWER_MS})}
