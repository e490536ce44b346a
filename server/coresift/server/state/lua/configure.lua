-- Replaces the settings.
-- Arguments: q request_id, d digest, u quota, b budget (-1: none), c config, v expected version.
-- Answer: r the record. Reply: "done", the answer.

local a = cmsgpack.unpack(ARGV[2])
local s, no = open()
if not s then
  return no
end
local again = replay(s, 'configure', a.d)
if again then
  return again
end
if a.v ~= s.cv then
  return refused('CONFIG_VERSION_MISMATCH', s.cv)
end
append(s, {t = 'C', q = a.q, v = s.cv + 1, c = a.c})
redis.call('HSET', KEYS[META], 'quota', a.u, 'budget', a.b, 'config', a.c, 'cv', s.cv + 1)
save(s)
return {'done', keep_answer({o = 'configure', d = a.d, r = record(s)})}
