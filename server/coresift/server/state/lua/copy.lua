-- Copies a piece of a session, for a file or for a session under another uid.
-- Arguments: p after this position, t the nonce there; k who freezes (empty: nobody), z for how
--   many ms: once the piece is the last, nobody else may do anything with the session until then.
-- Reply: "piece", packed entries; or "whole", such entries, fields and values of meta, a packed
--   list of members and deadlines of leases in turn: with the entries before, all that the session
--   is at this moment; "rewound" where the log has no such entry (any more).

local a = cmsgpack.unpack(ARGV[2])
local s, no = open(false, a.k)
if not s then
  return no
end
if not begins_with(s, a.p, a.t) then
  return {'rewound'}
end
local entries = tail(a.p, s.pos - a.p)
if a.p + #entries < s.pos then
  return {'piece', entries}
end
if a.k ~= '' then
  redis.call('HSET', KEYS[META], 'frozen', s.now + a.z, 'freezer', a.k, 'now', s.now)
end
return {'whole', entries, redis.call('HGETALL', KEYS[META]),
  cmsgpack.pack(redis.call('ZRANGE', KEYS[LEASES], 0, -1, 'WITHSCORES'))}
