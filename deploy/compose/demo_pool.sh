#!/bin/sh
# Makes the demo's pool unless it is there: demo_pool.sh POOL, a directory that ends in clinc150.
set -eu
pool=$1
data=${DEMO_DATA:-/demo/clinc150}

if [ -d "$pool" ]; then
  exit 0
fi
if [ "$(basename "$pool")" != clinc150 ]; then
  echo "there is no $(basename "$pool") in the folder of CORESIFT_POOLS" >&2
  exit 1
fi
exec coresift pool build "$data/embeddings.npy" --ids "$data/ids.txt.gz" \
  --metadata "$data/items.jsonl.gz" --out "$pool"
