-- Copies a piece of a session, for a file or for a session under another uid.
-- Arguments: p after this position; k who freezes (empty: nobody), z for how many ms: once the
--   piece is the last, nobody else may do anything with the session until then.
-- Reply: "piece", packed entries; or "whole", such entries, fields and values of meta, members and
--   deadlines of leases: with the entries before, all that the session is at this moment.

local a = cmsgpack.unpack(ARGV[2])
local s, no = open(false, a.k)
if not s then
  return no
end
local entries = tail(a.p, s.pos - a.p)
if a.p + #entries < s.pos then
  return {'piece', entries}
end
if a.k ~= '' then
  redis.call('HSET', KEYS[META], 'frozen', s.now + a.z, 'freezer', a.k, 'now', s.now)
end
return {'whole', entries, redis.call('HGETALL', KEYS[META]),
  redis.call('ZRANGE', KEYS[LEASES], 0, -1, 'WITHSCORES')}
