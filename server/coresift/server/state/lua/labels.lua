-- Commits labels of one annotator and ends that annotator's leases on their rows.
-- Arguments: q request_id, d digest, a annotator, f one byte a label ("1": a lease was shown), and
--   three packed lists that the entry holds as they are: r rows, i item_ids, v values (an empty one
--   takes the label back; those of one row are alike). t the distinct rows as text; l which of them
--   each label has (absent: its own, as no row stands there twice). g groups of the distinct rows
--   (-1: none; absent: none has one), c config version that they come from (absent: any).
-- Answer: u outcomes, one byte a label, v revision, n nonce, c config version.
-- Reply: "done", the answer.

local NEW, CORRECTED, RETRACTED, UNCHANGED, LATE, SURPLUS = 1, 2, 3, 4, 5, 6
local BYTES = {'\1', '\2', '\3', '\4', '\5', '\6'}
-- Remembered labelled rows of a group: more than one come from labels without a lease only, and
-- the next is needed when the first loses its votes.
local GROUP_ROWS = 1000

local a = cmsgpack.unpack(ARGV[2])
local s, no = open()
if not s then
  return no
end
local again = replay(s, 'labels', a.d)
if again then
  return again
end
if a.c and a.c ~= s.cv then
  return refused('CONFIG_VERSION_MISMATCH', s.cv)
end
settle(s)

local values = cmsgpack.unpack(a.v)
local distinct, places = a.t, a.l
local live = live_leases(s, distinct, a.a)
local had = redis.call('HMGET', KEYS[VOTES], unpack(distinct))
local votes = {}
for place = 1, #distinct do
  votes[place] = had[place] and cmsgpack.unpack(had[place])
end

-- The votes of a row on which nobody else has one, by value: the same table for all such rows.
local alone = {}
local changed = {}

local function put(place, value)
  local all = votes[place]
  local before = all and all[a.a]
  if value == before or (value == '' and not before) then
    return UNCHANGED
  end
  changed[place] = true
  if value == '' then
    all[a.a] = nil
    s.votes = s.votes - 1
    return RETRACTED
  end
  if not all then
    alone[value] = alone[value] or {[a.a] = value}
    votes[place] = alone[value]
    s.votes = s.votes + 1
    return nil
  end
  local others = 0
  if not before then
    for _ in pairs(all) do
      others = others + 1
    end
    s.votes = s.votes + 1
  end
  all[a.a] = value
  if before then
    return CORRECTED
  end
  if others < s.quota then
    return nil
  end
  local extra = redis.call('HGET', KEYS[EXTRA], distinct[place])
  return others >= s.quota + (extra or 0) and SURPLUS or nil
end

local outcomes = {}
for i = 1, #values do
  local place = places and places[i] or i
  local late = string.byte(a.f, i) == 49 and not live[place]
  outcomes[i] = BYTES[put(place, values[i]) or (late and LATE or NEW)]
end
outcomes = table.concat(outcomes)

local kept, gone, ended, leases, packs = {}, {}, {}, {}, {}
for place = 1, #distinct do
  local row, all = distinct[place], votes[place]
  if changed[place] then
    if next(all) then
      packs[all] = packs[all] or cmsgpack.pack(all)
      kept[#kept + 1] = row
      kept[#kept + 1] = packs[all]
    else
      gone[#gone + 1] = row
    end
  end
  if live[place] then
    ended[#ended + 1] = row
    leases[#leases + 1] = live[place]
  end
end

-- The fields of `groups` that change: rows keep their places in their group's list, and one that
-- had no vote before goes to the end.
local function labelled_groups()
  local mine, place_of, fields = {}, {}, {}
  for place, group in ipairs(a.g) do
    place_of[distinct[place]] = place
    if group >= 0 then
      mine[group] = mine[group] or {}
      table.insert(mine[group], place)
    end
  end
  for group, added in pairs(mine) do
    local packed = redis.call('HGET', KEYS[GROUPS], labelled_in(group))
    local listed, is_listed = {}, {}
    for _, row in ipairs(packed and cmsgpack.unpack(packed) or {}) do
      local place = place_of[row]
      if not place or (had[place] and next(votes[place])) then
        listed[#listed + 1] = row
        is_listed[row] = true
      end
    end
    for _, place in ipairs(added) do
      local row, all = distinct[place], votes[place]
      if all and next(all) and not is_listed[row] and #listed < GROUP_ROWS then
        listed[#listed + 1] = row
      end
    end
    if packed or #listed > 0 then
      fields[#fields + 1] = labelled_in(group)
      fields[#fields + 1] = cmsgpack.pack(listed)
    end
  end
  return fields
end
local labelled = a.g and labelled_groups() or {}

append(s, {t = 'L', q = a.q, a = a.a, r = a.r, i = a.i, v = a.v, u = outcomes})
s.rev = s.pos
s.nonce = ARGV[3]
save(s)
in_batches('HSET', KEYS[VOTES], kept)
in_batches('HDEL', KEYS[VOTES], gone)
in_batches('HSET', KEYS[GROUPS], labelled)
end_leases(ended, leases)
return {'done', keep_answer({
  o = 'labels', d = a.d, u = outcomes, v = s.rev, n = s.nonce, c = s.cv,
})}
