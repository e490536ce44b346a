-- Commits labels of one annotator and ends that annotator's leases on their rows.
-- Arguments: q request_id, d digest, a annotator, n nonce of the entry, f one byte a label ("1":
--   a lease was shown), and three packed lists that the entry holds as they are: r rows,
--   i item_ids, v values. An empty value takes the label back.
-- Answer: u outcomes, one byte a label, v revision, n nonce, c config version.
-- Reply: "done", the answer.

local NEW, CORRECTED, RETRACTED, UNCHANGED, LATE, SURPLUS = 1, 2, 3, 4, 5, 6

local a = cmsgpack.unpack(ARGV[2])
local s, no = open()
if not s then
  return no
end
local again = replay(s, 'labels', a.d)
if again then
  return again
end
settle(s)

local values = cmsgpack.unpack(a.v)
local rows, seen, distinct = {}, {}, {}
for i, number in ipairs(cmsgpack.unpack(a.r)) do
  local row = string.format('%d', number)
  rows[i] = row
  if not seen[row] then
    seen[row] = true
    distinct[#distinct + 1] = row
  end
end
local live = live_leases(s, distinct, a.a)
local votes = {}
for i, packed in ipairs(redis.call('HMGET', KEYS[VOTES], unpack(distinct))) do
  votes[distinct[i]] = packed and cmsgpack.unpack(packed) or {}
end

local changed = {}

local function put(row, value)
  local before = votes[row][a.a]
  if value == before or (value == '' and not before) then
    return UNCHANGED
  end
  changed[row] = true
  if value == '' then
    votes[row][a.a] = nil
    s.votes = s.votes - 1
    return RETRACTED
  end
  local others = 0
  if not before then
    for _ in pairs(votes[row]) do
      others = others + 1
    end
    s.votes = s.votes + 1
  end
  votes[row][a.a] = value
  if before then
    return CORRECTED
  end
  return others >= s.quota and SURPLUS or nil
end

local outcomes = {}
for i, row in ipairs(rows) do
  local late = string.byte(a.f, i) == 49 and not live[row]
  outcomes[i] = string.char(put(row, values[i]) or (late and LATE or NEW))
end
outcomes = table.concat(outcomes)

local kept, gone, ended = {}, {}, {}
for _, row in ipairs(distinct) do
  if changed[row] then
    if next(votes[row]) then
      kept[#kept + 1] = row
      kept[#kept + 1] = cmsgpack.pack(votes[row])
    else
      gone[#gone + 1] = row
    end
  end
  if live[row] then
    ended[#ended + 1] = row
  end
end

append(s, {t = 'L', q = a.q, a = a.a, n = a.n, r = a.r, i = a.i, v = a.v, u = outcomes})
s.rev = s.pos
s.nonce = a.n
save(s)
in_batches('HSET', KEYS[VOTES], kept)
in_batches('HDEL', KEYS[VOTES], gone)
end_leases(ended, a.a)
return {'done', keep_answer({o = 'labels', d = a.d, u = outcomes, v = s.rev, n = a.n, c = s.cv})}
