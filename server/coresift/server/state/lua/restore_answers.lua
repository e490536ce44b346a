-- Writes kept answers of a session that is not there yet; those that have ended are left out.
-- KEYS: 11... answers (strings). ARGV: 1 uid; 2 a packed list: value and when it ends (ms) of each.
-- Reply: "done".

local a = cmsgpack.unpack(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for i = 11, #KEYS do
  local value, ends = a[2 * (i - 11) + 1], a[2 * (i - 11) + 2]
  if ends > now then
    redis.call('SET', KEYS[i], value, 'PX', string.format('%.0f', math.min(ends - now, ANSWER_MS)))
  end
end
return {'done'}
