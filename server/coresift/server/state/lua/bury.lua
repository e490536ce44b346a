-- Removes what a session has. For a time `meta` says so to whoever read its name record before:
-- nobody creates it from that, and who may go on elsewhere does.
-- KEYS: 11... further keys of the session that are removed.
-- Reply: "done".

local moved = redis.call('HGET', KEYS[META], 'moved')
redis.call('UNLINK', unpack(KEYS))
redis.call('HSET', KEYS[META], 'uid', NOBODY, 'format', FORMAT)
if moved then
  redis.call('HSET', KEYS[META], 'moved', moved)
end
redis.call('PEXPIRE', KEYS[META], BURIED_MS)
return {'done'}
