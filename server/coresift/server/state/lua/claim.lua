-- Leases the first `size` proposals that are free for the annotator.
-- Arguments: q request_id, d digest, a annotator, z size, l lease ms, vp, vt, vr, vn, vc the view
--   (prelude: is_rewound), w wanted revision (-1: the newest), r proposed rows, p their payloads
--   one after the other, y bytes of each, x context, k true for a second look at labelled rows,
--   g groups of the proposed rows (-1: none; absent: none has one), o true for one label a group.
-- Entry: q, a, r rows, z, e deadline, p, v, c of the view, x, k true for a second look.
-- Answer: e deadline, r rows, p payloads, v revision of the view, c config version, x context,
--   b 1 if the budget cut the batch short, n when the earliest lease ends (-1: no lease).
-- Reply: "granted", the answer, entries after the view (maybe not all), newest position;
--   "behind", such entries, newest position; "rewound".

local a = cmsgpack.unpack(ARGV[2])
local s, no = open()
if not s then
  return no
end
local again = replay(s, 'claim', a.d)
if again then
  return again
end
settle(s)

if is_rewound(s, a) then
  return {'rewound'}
end
if a.w > s.rev then
  return refused('REVISION_NOT_REACHED', s.rev)
end
if a.vc ~= s.cv or a.vr < (a.w >= 0 and a.w or s.rev) then
  return {'behind', tail(a.vp, s.pos - a.vp), s.pos}
end

local live = redis.call('ZCOUNT', KEYS[LEASES], string.format('(%.0f', s.now), '+inf')
local size = a.z
if s.budget >= 0 then
  size = math.max(0, math.min(size, s.budget - s.votes - live))
end

local rows, numbers, payloads, counts, taken = {}, {}, {}, {}, {}
local raised, led, is_led = {}, {}, {}
local hides = redis.call('EXISTS', KEYS[SKIPS]) == 1
local raises = redis.call('EXISTS', KEYS[EXTRA]) == 1
local grouped = a.g and redis.call('EXISTS', KEYS[GROUPS]) == 1

-- Votes and leases on a row with the one asked for, nil if it is not free. votes: packed or false;
-- held: the number of leases; quota: of the row. A second look needs a vote, and may exceed the
-- quota of a row that nobody holds.
local function filled(row, votes, held, quota)
  if taken[row] or held >= quota or (a.k and not votes) then
    return nil
  end
  local count = held + 1
  if votes then
    if quota == 1 and not a.k then
      return nil
    end
    votes = cmsgpack.unpack(votes)
    for _ in pairs(votes) do
      count = count + 1
    end
    if votes[a.a] or (count > quota and not (a.k and held == 0)) then
      return nil
    end
  end
  if held > 0 and redis.call('ZSCORE', KEYS[LEASES], lease_of(row, a.a)) then
    return nil
  end
  return count
end

-- Whether another row of the group is leased or, with one label a group, labelled. A row with votes
-- is proposed only where it was labelled first: the view knows labels from before the rule, too.
local function group_is_taken(group, row, votes)
  if is_led[group] then
    return true
  end
  if not grouped then
    return false
  end
  local leased, labelled =
    unpack(redis.call('HMGET', KEYS[GROUPS], leased_in(group), labelled_in(group)))
  if leased and leased ~= row and redis.call('HEXISTS', KEYS[HELD], leased) == 1 then
    return true
  end
  if a.o and labelled and not votes then
    for _, other in ipairs(cmsgpack.unpack(labelled)) do
      if redis.call('HEXISTS', KEYS[VOTES], other) == 1 then
        return other ~= row
      end
    end
  end
  return false
end

local format, n, payload_ends = string.format, 0, 0

local function take(from, to)
  local names, marks = {}, {}
  for i = from, to do
    local row = format('%d', a.r[i])
    names[i - from + 1] = row
    if hides then
      marks[#marks + 1] = row
      marks[#marks + 1] = lease_of(row, a.a)
    end
  end
  local votes = redis.call('HMGET', KEYS[VOTES], unpack(names))
  local held = redis.call('HMGET', KEYS[HELD], unpack(names))
  local hidden = hides and redis.call('SMISMEMBER', KEYS[SKIPS], unpack(marks))
  local extras = raises and redis.call('HMGET', KEYS[EXTRA], unpack(names))
  for i = 1, #names do
    if n == size then
      return
    end
    local row, at = names[i], from + i - 1
    local payload_begins = payload_ends + 1
    payload_ends = payload_ends + a.y[at]
    local skipped = hidden and (hidden[2 * i - 1] == 1 or hidden[2 * i] == 1)
    local count = held[i] and tonumber(held[i]) or 0
    local quota = extras and extras[i] and s.quota + tonumber(extras[i]) or s.quota
    local fills = not skipped and filled(row, votes[i], count, quota)
    local group = a.g and a.g[at] or -1
    if fills and (group < 0 or not group_is_taken(group, row, votes[i])) then
      taken[row] = true
      if fills > quota then
        raised[#raised + 1] = row
        raised[#raised + 1] = fills - s.quota
      end
      if group >= 0 then
        is_led[group] = true
        led[#led + 1] = leased_in(group)
        led[#led + 1] = row
      end
      n = n + 1
      rows[n], numbers[n], counts[n] = row, a.r[at], count
      payloads[n] = string.sub(a.p, payload_begins, payload_ends)
    end
  end
end

-- Most claims end within the first piece.
local from, piece = 1, math.min(256, size + 16)
while n < size and from <= #a.r do
  take(from, math.min(from + piece - 1, #a.r))
  from, piece = from + piece, 256
end

local deadline = s.now + a.l
if #rows > 0 then
  append(s, {t = 'G', q = a.q, a = a.a, r = numbers, z = a.z, e = deadline, p = a.vp, v = a.vr,
    c = s.cv, x = a.x, k = a.k})
  start_leases(rows, counts, a.a, deadline)
  in_batches('HSET', KEYS[EXTRA], raised)
  in_batches('HSET', KEYS[GROUPS], led)
  save(s)
end
local first = redis.call('ZRANGE', KEYS[LEASES], 0, 0, 'WITHSCORES')
local answer = {
  o = 'claim', d = a.d, e = deadline, r = numbers, p = payloads, v = a.vr, c = s.cv, x = a.x,
  b = (size < a.z and #rows == size) and 1 or 0,
  n = first[2] and math.max(tonumber(first[2]), s.now) or -1,
}
local blob = #rows > 0 and keep_answer(answer) or cmsgpack.pack(answer)
return {'granted', blob, tail(a.vp, s.pos - a.vp), s.pos}
