#!/bin/sh
# Starts Redis as master or as replica: as more than half of the sentinels say.
#
# It waits until they do. A Redis that guesses could be a second master, or an empty one that its
# replicas then copy. On the very first start they name the first pod (start-sentinel.sh).
#
# Environment: SELF (name of this pod), SENTINELS (host:port ...), REPLICA_PASSWORD, PEER_PASSWORD.
set -eu

ask() { # HOST:PORT COMMAND...: what a sentinel answers, nothing if it does not
  host=${1%:*} port=${1##*:}
  shift
  REDISCLI_AUTH=$PEER_PASSWORD timeout 2 redis-cli -h "$host" -p "$port" --user peer --no-auth-warning \
    SENTINEL "$@" coresift 2>/dev/null || true
}

named_master() { # the master that more than half of the sentinels name
  for sentinel in $SENTINELS; do
    ask "$sentinel" GET-MASTER-ADDR-BY-NAME | awk 'NR == 1 { host = $0 } NR == 2 && /^[0-9]+$/ { print host }'
  done | sort | uniq -c | while read -r votes master; do
    [ $((votes * 2)) -gt "$(echo "$SENTINELS" | wc -w)" ] && echo "$master"
  done || true
}

others_have_data() { # whether a sentinel has ever seen a replica: then this is not the first start
  for sentinel in $SENTINELS; do ask "$sentinel" REPLICAS; done | grep -qx name
}

has_data() {
  for file in /data/appendonly* /data/appendonlydir/*; do
    if [ -f "$file" ] && [ -s "$file" ]; then return 0; fi
  done
  return 1
}

while true; do
  master=$(named_master)
  if [ -z "$master" ]; then
    echo "$SELF waits: the sentinels name no master"
  elif [ "$master" = "$SELF" ] && ! has_data && others_have_data; then
    echo "$SELF waits: its data are gone, and the sentinels must choose another master"
  else
    break
  fi
  sleep 1
done

{
  cat /config/redis.conf
  echo "replica-announce-ip $SELF"
  echo "masteruser replica"
  echo "masterauth $REPLICA_PASSWORD"
  [ "$master" = "$SELF" ] || echo "replicaof $master 6379"
} > /data/redis.conf
chmod 600 /data/redis.conf
echo "$SELF starts; the master is $master"
exec redis-server /data/redis.conf
