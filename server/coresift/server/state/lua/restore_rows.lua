-- Writes what follows from the log of a session that is not there yet.
-- Arguments: v rows and packed votes in turn, w rows without votes, x rows and votes beyond the
--   quota, s members of skips, g fields and values of groups, h rows and numbers of leases on
--   them, l deadlines and members of leases, r rows in the hands of the annotator of KEYS[HANDS].
-- Reply: "done".

local a = cmsgpack.unpack(ARGV[2])
if redis.call('EXISTS', KEYS[META]) == 1 then
  return {'done'}
end
in_batches('HSET', KEYS[VOTES], a.v)
in_batches('HDEL', KEYS[VOTES], a.w)
in_batches('HSET', KEYS[EXTRA], a.x)
in_batches('SADD', KEYS[SKIPS], a.s)
in_batches('HSET', KEYS[GROUPS], a.g)
in_batches('HSET', KEYS[HELD], a.h)
in_batches('ZADD', KEYS[LEASES], a.l)
if #a.r > 0 then
  in_batches('SADD', KEYS[HANDS], a.r)
  redis.call('PEXPIRE', KEYS[HANDS], HANDS_MS)
end
return {'done'}
