-- Closes a frozen session for good: it lives on under another uid; or lets it go on.
-- Arguments: k who froze it, b name record of the other uid (empty: go on), p the newest position
--   that it was copied to (of no matter to what goes on).
-- Reply: "done"; "thawed": it is no longer frozen by this one, and nothing was done.

local a = cmsgpack.unpack(ARGV[2])
local moved = redis.call('HGET', KEYS[META], 'moved')
if moved and moved == a.b then
  return {'done'}
end
local s, no = open(true, a.k)
if not s then
  return no
end
local holder, ends = unpack(redis.call('HMGET', KEYS[META], 'freezer', 'frozen'))
if holder ~= a.k or tonumber(ends) <= s.now or (a.b ~= '' and s.pos ~= a.p) then
  return {'thawed'}
end
redis.call('HDEL', KEYS[META], 'frozen', 'freezer')
if a.b ~= '' then
  redis.call('HSET', KEYS[META], 'moved', a.b, 'uid', NOBODY)
end
return {'done'}
