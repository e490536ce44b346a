#!/bin/sh
# Starts a sentinel. What it learnt before (whom it watches, whom it voted for) is kept; settings and
# passwords are those of now.
#
# Environment: SELF (name of this pod), FIRST (the first master), REDIS_SENTINEL_PASSWORD,
# PEER_PASSWORD.
set -eu

learnt() { grep -E "^sentinel ($1) " /data/sentinel.conf 2>/dev/null || true; }

monitor=$(learnt monitor)
{
  grep -v '^sentinel [a-z-]* coresift' /config/sentinel.conf
  echo "sentinel announce-ip $SELF"
  echo "sentinel sentinel-user peer"
  echo "sentinel sentinel-pass $PEER_PASSWORD"
  learnt 'myid|current-epoch'
  echo "${monitor:-sentinel monitor coresift $FIRST 6379 2}"
  grep '^sentinel [a-z-]* coresift' /config/sentinel.conf
  echo "sentinel auth-user coresift sentinel"
  echo "sentinel auth-pass coresift $REDIS_SENTINEL_PASSWORD"
  learnt 'config-epoch|leader-epoch|known-replica|known-sentinel'
} > /data/sentinel.conf.new
chmod 600 /data/sentinel.conf.new
mv /data/sentinel.conf.new /data/sentinel.conf
exec redis-server /data/sentinel.conf --sentinel
