-- Reads a piece of the log, and the session.
-- KEYS: 11 head (hash: key, head).
-- Arguments: p after this position, n up to so many entries; where the entries are to continue a
--   view, also vp (= p), vt, vr, vn, vc of it (prelude: is_rewound); or only vt, the nonce at p.
-- Reply: "log", the record, packed entries, 1 if that is all that was asked for, the head of the
--   newest revision and configuration (false: not there, or more entries follow); "rewound".

local a = cmsgpack.unpack(ARGV[2])
local s, no = open()
if not s then
  return no
end
if a.vp and is_rewound(s, a) or a.vt and not begins_with(s, a.p, a.vt) then
  return {'rewound'}
end
local wanted = math.max(0, math.min(a.n, s.pos - a.p))
local entries = tail(a.p, wanted)
local whole = #entries >= wanted
local head = false
if whole then
  local published = redis.call('HMGET', KEYS[11], 'key', 'head')
  if published[1] == current_head(s) then
    head = published[2]
  end
end
return {'log', record(s), entries, whole and 1 or 0, head}
