-- Moves the deadline of an annotator's live leases. Not in the log: a grant's deadline is a hint.
-- Arguments: d digest, a annotator, r rows (none: all of the annotator), l lease ms.
-- Answer: t new deadline, y renewed rows, x named rows without a live lease.
-- Reply: "done", the answer.

local a = cmsgpack.unpack(ARGV[2])
local s, no = open()
if not s then
  return no
end
local again = replay(s, 'renew', a.d)
if again then
  return again
end
settle(s)

local rows = {}
if #a.r > 0 then
  for i, number in ipairs(a.r) do
    rows[i] = string.format('%d', number)
  end
else
  rows = redis.call('SMEMBERS', KEYS[HANDS])
end

local deadline = s.now + a.l
local scores, renewed, lost, ended = {}, {}, {}, {}
for from = 1, #rows, 1000 do
  local piece = {unpack(rows, from, math.min(from + 999, #rows))}
  local live = live_leases(s, piece, a.a)
  for i, row in ipairs(piece) do
    if live[i] then
      scores[#scores + 1] = deadline
      scores[#scores + 1] = live[i]
      renewed[#renewed + 1] = tonumber(row)
    else
      lost[#lost + 1] = tonumber(row)
      ended[#ended + 1] = row
    end
  end
end
save(s)
in_batches('ZADD', KEYS[LEASES], scores)
in_batches('SREM', KEYS[HANDS], ended)
redis.call('PEXPIRE', KEYS[HANDS], HANDS_MS)
if #a.r == 0 then
  lost = {}
end
return {'done', keep_answer({o = 'renew', d = a.d, t = deadline, y = renewed, x = lost})}
