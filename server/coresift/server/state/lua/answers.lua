-- Reads kept answers.
-- KEYS: 11... answers (strings). ARGV: 1 uid; 2 a packed map: k who froze the session (or empty).
-- Reply: "answers", for each its value and when it ends (ms), or two nils.

local s, no = open(false, cmsgpack.unpack(ARGV[2]).k)
if not s then
  return no
end
local found = {}
for i = 11, #KEYS do
  local value = redis.call('GET', KEYS[i])
  found[#found + 1] = value
  found[#found + 1] = value and string.format('%.0f', s.now + redis.call('PTTL', KEYS[i]))
end
return {'answers', found}
