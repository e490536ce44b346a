-- Tries every command that the store and its scripts use, for the sake of the user's permissions.
-- KEYS: 1 a key that nothing else uses; it is gone afterwards.
-- Reply: command and error in turn, of those that failed.

local key = KEYS[1]
local commands = {
  {'DEL', key}, {'EXISTS', key}, {'GET', key}, {'MGET', key}, {'PEXPIRE', key, 1}, {'PTTL', key},
  {'SET', key, '', 'PX', 1000}, {'UNLINK', key}, {'TIME'},
  {'HSET', key, 'f', ''}, {'HGET', key, 'f'}, {'HMGET', key, 'f'}, {'HGETALL', key},
  {'HEXISTS', key, 'f'}, {'HDEL', key, 'f'},
  {'SADD', key, 'm'}, {'SMEMBERS', key}, {'SMISMEMBER', key, 'm'}, {'SRANDMEMBER', key, 1},
  {'SREM', key, 'm'},
  {'ZADD', key, 0, 'm'}, {'ZCOUNT', key, 0, 0}, {'ZMSCORE', key, 'm'}, {'ZRANGE', key, 0, 0},
  {'ZRANGEBYLEX', key, '-', '+'}, {'ZRANGEBYSCORE', key, 0, 0}, {'ZSCORE', key, 'm'},
  {'ZREM', key, 'm'},
  {'XADD', key, '1-0', 'e', ''}, {'XRANGE', key, '-', '+', 'COUNT', 1},
  {'XREVRANGE', key, '+', '-', 'COUNT', 1},
  {'DEL', key},
}
local failed = {}
for _, command in ipairs(commands) do
  local reply = redis.pcall(unpack(command))
  if type(reply) == 'table' and reply.err then
    failed[#failed + 1] = command[1]
    failed[#failed + 1] = reply.err
  end
end
return failed
