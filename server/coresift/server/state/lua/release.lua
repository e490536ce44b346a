-- Hands items back.
-- Arguments: q request_id, d digest, a annotator, r rows (distinct), w reason: 1 return, 2 skip
--   (hidden from the annotator), 3 cannot label (hidden from all).
-- Answer: y rows that had a live lease. Reply: "done", the answer.

local a = cmsgpack.unpack(ARGV[2])
local s, no = open()
if not s then
  return no
end
local again = replay(s, 'release', a.d)
if again then
  return again
end
settle(s)

local rows = {}
for i, number in ipairs(a.r) do
  rows[i] = string.format('%d', number)
end
local live = live_leases(s, rows, a.a)
local ended, leases, released, hidden = {}, {}, {}, {}
for i, row in ipairs(rows) do
  if live[i] then
    ended[#ended + 1] = row
    leases[#leases + 1] = live[i]
    released[#released + 1] = a.r[i]
  end
  hidden[i] = a.w == 2 and lease_of(row, a.a) or row
end

if a.w ~= 1 or #ended > 0 then
  append(s, {t = 'R', q = a.q, a = a.a, r = a.w == 1 and released or a.r, w = a.w})
end
save(s)
if a.w ~= 1 then
  in_batches('SADD', KEYS[SKIPS], hidden)
end
end_leases(ended, leases)
return {'done', keep_answer({o = 'release', d = a.d, y = released})}
