-- Creates a session from its name record; again: nothing.
-- Arguments: i session_id, s secret, u quota, b budget (-1: none), c config, q request_id.
-- Reply: "record", the record (prelude: record()); "moved" as of read.lua.

local a = cmsgpack.unpack(ARGV[2])
if redis.call('EXISTS', KEYS[META]) == 0 then
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  redis.call('HSET', KEYS[META], 'uid', ARGV[1], 'id', a.i, 'secret', a.s, 'format', FORMAT,
    'quota', a.u, 'budget', a.b, 'config', a.c, 'cv', 1, 'pos', 1, 'rev', 0, 'nonce', '',
    'votes', 0, 'created', now, 'now', now)
  local s = {pos = 0, now = now}
  append(s, {t = 'C', q = a.q, v = 1, c = a.c})
  redis.call('HSET', KEYS[META], 'tip', s.kept_tip)
end
local moved = redis.call('HGET', KEYS[META], 'moved')
if moved then
  return {'moved', moved}
end
local s, no = open()
return no or {'record', record(s)}
