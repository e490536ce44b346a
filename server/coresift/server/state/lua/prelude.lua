-- Stands before every script of a session.
--
-- KEYS (all of one session, one hash tag):
--   1 meta   hash    uid, id, secret, format, quota, budget (-1: none), config, cv (config
--                    version), pos (newest entry), tip ("<pos>:" and that entry's nonce; absent or
--                    of an older position where a release without tips wrote last), rev, nonce (of
--                    the entry at rev), votes (in all), created, now (newest time seen), deleted
--                    (only once deleted), frozen (until when nothing is done) and freezer (who
--                    still may), moved (only once it lives on elsewhere: that name record).
--                    Of one that moved or was removed, uid is empty
--   2 log    stream  ids <position>-0, one field "e": a packed map (see entries.py)
--   3 leases zset    score deadline, member "row:annotator"
--   4 hands  set     of one annotator: rows leased to them, ended ones possibly too
--   5 held   hash    row -> number of leases on it; absent for none
--   6 votes  hash    row -> packed {annotator: newest value}; retracted ones are absent
--   7 skips  set     "row:annotator", and "row" alone for nobody can label it
--   8 answer string  packed map kept for a repeated request: o operation, d digest, e end
--   9 extra  hash    row -> votes that the row may have beyond the quota; absent for none
--  10 groups hash    "l<group>" -> the row of the group that was leased last; "v<group>" -> packed
--                    rows of the group that have had votes, in the order of their first one. Both
--                    are hints: a lease counts while the row is in held, a label while it is in
--                    votes, so whatever ends a lease or takes a vote back frees the group
-- ARGV: 1 uid; 2 a packed map of the script's own arguments, where it has any; 3 of scripts that
--   append to the log: random bytes, others for every run, also when a broken call is repeated
--   (Redis before 7 seeds Lua's random alike each time).
-- Reply: a list; 1 is its kind: "refused" (2 reason, 3 detail), "replayed" (2 the kept answer), or
--   what the script's header names.
-- Times are milliseconds since the epoch, by Redis TIME, and never go back within a session.
-- First all is read and checked, then only what cannot fail is written: Lua does not roll back.

local META, LOG, LEASES, HANDS, HELD, VOTES, SKIPS, ANSWER = 1, 2, 3, 4, 5, 6, 7, 8
local EXTRA, GROUPS = 9, 10
local FORMAT = 1
local ANSWER_MS = 86400000
-- Longer than any lease, so that it never ends before what it lists.
local HANDS_MS = 2 * ANSWER_MS
-- Longer than any call, and than a purge that is put off.
local BURIED_MS = 2 * ANSWER_MS
-- The uid of a session that has moved or was removed: scripts of older releases compare it, too.
local NOBODY = ''
local SETTLE_BATCH = 1000
local TAIL_BYTES = 1048576

local function refused(reason, detail)
  return {'refused', reason, tostring(detail or '')}
end

-- unpack() of more than about 8,000 values fails. 4,000 keeps pairs together.
local function in_batches(command, key, arguments)
  for from = 1, #arguments, 4000 do
    redis.call(command, key, unpack(arguments, from, math.min(from + 3999, #arguments)))
  end
end

local function open(with_deleted, freezer)
  local f = redis.call('HMGET', KEYS[META], 'uid', 'format', 'deleted', 'now', 'pos', 'rev',
    'nonce', 'cv', 'quota', 'budget', 'votes', 'tip',
    'moved', 'frozen', 'freezer')
  if f[1] ~= ARGV[1] or f[13] then
    return nil, refused('SESSION_NOT_FOUND')
  end
  if tonumber(f[2]) > FORMAT then
    return nil, refused('FORMAT_TOO_NEW', f[2])
  end
  if f[3] and not with_deleted then
    return nil, refused('SESSION_NOT_FOUND')
  end
  local time = redis.call('TIME')
  local now = math.max(time[1] * 1000 + math.floor(time[2] / 1000), tonumber(f[4]))
  if f[14] and tonumber(f[14]) > now and f[15] ~= freezer then
    return nil, refused('STATE_UNAVAILABLE')
  end
  return {
    now = now,
    deleted = f[3] and tonumber(f[3]),
    pos = tonumber(f[5]),
    rev = tonumber(f[6]),
    nonce = f[7],
    cv = tonumber(f[8]),
    quota = tonumber(f[9]),
    budget = tonumber(f[10]),
    votes = tonumber(f[11]),
    kept_tip = f[12],
  }
end

local function save(s)
  redis.call('HSET', KEYS[META], 'now', s.now, 'pos', s.pos, 'rev', s.rev, 'nonce', s.nonce,
    'votes', s.votes, 'tip', s.kept_tip or '')
end

-- The nonce of an entry; empty if it has none, nil if there is no such entry.
local function nonce_at(position)
  local id = string.format('%.0f-0', position)
  local at = redis.call('XRANGE', KEYS[LOG], id, id)
  return at[1] and (cmsgpack.unpack(at[1][2][2]).n or '')
end

-- The nonce of the newest entry; empty if it has none.
local function tip(s)
  local prefix = string.format('%.0f:', s.pos)
  if s.kept_tip and string.sub(s.kept_tip, 1, #prefix) == prefix then
    return string.sub(s.kept_tip, #prefix + 1)
  end
  return nonce_at(s.pos) or ''
end

-- Whether the log begins with what a view was built from. It is linear, and a failover only cuts
-- off its end: an entry with the same nonce has the same entries before it.
local function begins_with(s, position, nonce)
  if position == 0 or position > s.pos then
    return position == 0
  end
  return nonce == (position == s.pos and tip(s) or nonce_at(position))
end

-- Whether the log is another one than that of a view: vp its position, vt the nonce there, vr its
-- revision, vn the nonce there, vc its config version. The entries of a release without tips have
-- no nonce, except for labels.
local function is_rewound(s, view)
  if view.vp > s.pos or view.vr > s.rev or view.vc > s.cv then
    return true
  end
  local labels = s.nonce
  if view.vr < s.rev then
    labels = view.vr == 0 and '' or nonce_at(view.vr)
  end
  return labels ~= view.vn or not begins_with(s, view.vp, view.vt)
end

-- An expiry goes before another entry of the same run, so `nonce` says which of the two it is.
local function append(s, entry, nonce)
  s.pos = s.pos + 1
  entry.m = s.now
  entry.n = nonce or ARGV[3]
  s.kept_tip = string.format('%.0f:', s.pos) .. (entry.n or '')
  redis.call('XADD', KEYS[LOG], string.format('%.0f-0', s.pos), 'e', cmsgpack.pack(entry))
end

local function keep_answer(answer)
  local blob = cmsgpack.pack(answer)
  redis.call('SET', KEYS[ANSWER], blob, 'PX', ANSWER_MS)
  return blob
end

local function replay(s, operation, digest)
  local blob = redis.call('GET', KEYS[ANSWER])
  if not blob then
    return nil
  end
  local kept = cmsgpack.unpack(blob)
  if kept.o ~= operation or kept.d ~= digest then
    return refused('REQUEST_ID_REUSED')
  end
  if kept.e and kept.e <= s.now then
    return refused('REQUEST_EXPIRED')
  end
  return {'replayed', blob}
end

local function lease_of(row, annotator)
  return row .. ':' .. annotator
end

-- Fields of `groups`.
local function leased_in(group)
  return string.format('l%d', group)
end

local function labelled_in(group)
  return string.format('v%d', group)
end

-- Takes leases off the counts in `held`. rows: up to 1,000 distinct ones; ended: how many leases of
-- each have ended, one where it is absent.
local function drop_held(rows, ended)
  local held = redis.call('HMGET', KEYS[HELD], unpack(rows))
  local kept, gone = {}, {}
  for i = 1, #rows do
    local row = rows[i]
    local left = held[i] == '1' and 0 or tonumber(held[i]) - (ended and ended[row] or 1)
    if left > 0 then
      kept[#kept + 1] = row
      kept[#kept + 1] = left
    else
      gone[#gone + 1] = row
    end
  end
  in_batches('HSET', KEYS[HELD], kept)
  in_batches('HDEL', KEYS[HELD], gone)
end

-- Starts leases on up to 1,000 rows that the annotator does not hold; held: their counts so far.
local function start_leases(rows, held, annotator, deadline)
  local leases, counts, behind = {}, {}, ':' .. annotator
  -- As text: Redis formats each number with 17 digits, which takes longer than all else.
  local at = string.format('%.0f', deadline)
  for i = 1, #rows do
    local row = rows[i]
    leases[2 * i - 1] = at
    leases[2 * i] = row .. behind
    counts[2 * i - 1] = row
    counts[2 * i] = held[i] == 0 and '1' or string.format('%d', held[i] + 1)
  end
  in_batches('ZADD', KEYS[LEASES], leases)
  in_batches('HSET', KEYS[HELD], counts)
  in_batches('SADD', KEYS[HANDS], rows)
  redis.call('PEXPIRE', KEYS[HANDS], HANDS_MS)
end

-- Ends leases of one annotator, all of which exist, on up to 1,000 distinct rows.
local function end_leases(rows, leases)
  if #rows == 0 then
    return
  end
  in_batches('ZREM', KEYS[LEASES], leases)
  in_batches('SREM', KEYS[HANDS], rows)
  drop_held(rows)
end

-- Ends leases whose deadline passed: an operation of its own, with its own entry. What is over
-- the batch stays for the next call, and blocks its item until then.
local function settle(s)
  local due = redis.call('ZRANGEBYSCORE', KEYS[LEASES], '-inf', s.now, 'LIMIT', 0, SETTLE_BATCH)
  if #due > 0 then
    local rows, ended = {}, {}
    for _, lease in ipairs(due) do
      local row = string.sub(lease, 1, string.find(lease, ':', 1, true) - 1)
      if not ended[row] then
        rows[#rows + 1] = row
      end
      ended[row] = (ended[row] or 0) + 1
    end
    append(s, {t = 'X', l = due}, (ARGV[3] or '') .. 'x')
    in_batches('ZREM', KEYS[LEASES], due)
    drop_held(rows, ended)
    save(s)
  end
end

-- For each of up to 1,000 rows (strings): its lease of the annotator if that is live, else nil.
local function live_leases(s, rows, annotator)
  if redis.call('EXISTS', KEYS[HANDS]) == 0 then
    return {}
  end
  local leases, behind = {}, ':' .. annotator
  for i = 1, #rows do
    leases[i] = rows[i] .. behind
  end
  local deadlines = redis.call('ZMSCORE', KEYS[LEASES], unpack(leases))
  local live, known, is_live = {}, false, false
  for i = 1, #rows do
    local deadline = deadlines[i]
    if deadline ~= known then -- those of one batch are alike
      known, is_live = deadline, deadline and tonumber(deadline) > s.now
    end
    live[i] = is_live and leases[i] or nil
  end
  return live
end

-- Up to `count` packed entries after a position, fewer once they exceed TAIL_BYTES.
local function tail(position, count)
  local entries, bytes = {}, 0
  while #entries < count and bytes < TAIL_BYTES do
    local from = string.format('%.0f-0', position + #entries + 1)
    local page = redis.call('XRANGE', KEYS[LOG], from, '+', 'COUNT', math.min(count - #entries, 32))
    if #page == 0 then
      break
    end
    for _, entry in ipairs(page) do
      entries[#entries + 1] = entry[2][2]
      bytes = bytes + #entry[2][2]
    end
  end
  return entries
end

-- The session as replies.py reads it.
local function record(s)
  local fields = redis.call('HMGET', KEYS[META], 'id', 'uid', 'secret', 'quota', 'budget', 'config',
    'cv', 'rev', 'nonce', 'pos', 'created', 'votes')
  fields[#fields + 1] = tip(s)
  return fields
end

-- head_key() of store.py for the newest revision and configuration.
local function current_head(s)
  local nonce = string.gsub(s.nonce, '.', function(byte)
    return string.format('%02x', string.byte(byte))
  end)
  return string.format('r%.0f-%s-c%.0f', s.rev, nonce, s.cv)
end

