#!/bin/sh
# Prints the secrets of Redis with fresh random passwords; writes nothing to disk.
#
#   ./secrets.sh redis    | kubectl create -n coresift -f -    # overlays cpu and gpu
#   ./secrets.sh sentinel | kubectl create -n coresift -f -    # overlay ha
#
# `create`, not `apply`: it never replaces the passwords that a running Redis has.
set -eu

# What the server needs of Redis, no more; as server/coresift/server/rpc/SECURITY.md has it.
rights="resetchannels ~coresift:* -@all +del +exists +get +mget +pexpire +pttl +set +unlink +time +hset +hget +hmget +hgetall +hexists +hdel +sadd +smembers +smismember +srandmember +srem +zadd +zcount +zmscore +zrange +zrangebylex +zrangebyscore +zscore +zrem +xadd +xrange +xrevrange +eval +evalsha +info +wait"

# For people at an alert (deploy/prometheus/RUNBOOK.md): to look, and to raise maxmemory. Redis cannot
# narrow `config set` to one option, so treat the password as the key of the store. No keys, no data.
operator_rights="resetchannels -@all +ping +info +role +dbsize +slowlog +latency +client|list +memory|stats +memory|doctor +config|get +config|set"
watcher_rights="resetchannels -@all +ping +info +sentinel|masters +sentinel|master +sentinel|replicas +sentinel|sentinels +sentinel|get-master-addr-by-name +sentinel|ckquorum +sentinel|failover"

password() { head -c 24 /dev/urandom | od -An -v -tx1 | tr -d ' \n'; }

operator=$(password)
coresift=$(password) asker=$(password) replica=$(password) sentinel=$(password) peer=$(password)

case ${1:-} in
redis)
  url="redis://coresift:$coresift@coresift-redis:6379/0"
  ;;
sentinel)
  at=coresift-sentinel
  url="redis+sentinel://coresift:$coresift@$at-0.$at:26379,$at-1.$at:26379,$at-2.$at:26379/coresift"
  url="$url?sentinel_username=coresift&sentinel_password=$asker"
  ;;
*)
  echo "usage: $0 redis|sentinel" >&2
  exit 2
  ;;
esac

# `default` answers probes, and may do nothing else.
cat << END
apiVersion: v1
kind: Secret
metadata:
  name: coresift-state
stringData:
  url: "$url"
  log-hash-key: "$(password)"
---
apiVersion: v1
kind: Secret
metadata:
  name: coresift-redis
stringData:
  operator-password: "$operator"
  users.acl: |
    user default on nopass resetchannels -@all +ping
    user coresift on >$coresift $rights
    user operator on >$operator $operator_rights
END
[ "$1" = sentinel ] || exit 0
# Redis copies as `replica`; sentinels watch and promote as `sentinel`; among themselves they are
# `peer`, and so are pods that ask who is master.
cat << END
    user replica on >$replica resetchannels -@all +psync +replconf +ping
    user sentinel on >$sentinel allchannels -@all +multi +slaveof +ping +exec +subscribe +config|rewrite +role +publish +info +client|setname +client|kill +script|kill
  sentinel-users.acl: |
    user default on nopass resetchannels -@all +ping
    user coresift on >$asker resetchannels -@all +sentinel|get-master-addr-by-name
    user peer on >$peer allchannels +@all
    user operator on >$operator $watcher_rights
  replica-password: "$replica"
  sentinel-password: "$sentinel"
  peer-password: "$peer"
END
