-- Lists live leases.
-- Reply: "leases", then members ("row:annotator") and deadlines in turn.

local s, no = open()
if not s then
  return no
end
local after = string.format('(%.0f', s.now)
return {'leases', redis.call('ZRANGEBYSCORE', KEYS[LEASES], after, '+inf', 'WITHSCORES')}
