#!/bin/sh
# Makes the virtual environment of an image, without pip:
#
#   install.sh cpu|gpu WHEELS VENV "PACKAGE..."
#
# with whatever packages are wanted besides. Every version is pinned; a target's own pins go before
# those of all images, and these before constraints.txt. Where packages come from is said by pip's
# settings, such as PIP_EXTRA_INDEX_URL.
set -eu
target=$1 wheels=$2 venv=$3 packages=$4

pins=$(mktemp)
trap 'rm -f "$pins"' EXIT
awk -F '==' '!seen[$1]++' "deploy/container/constraints-$target.txt" \
  deploy/container/constraints-image.txt constraints.txt > "$pins"

python3 -m venv --without-pip "$venv"
# shellcheck disable=SC2086 # several packages
python3 -m pip --python "$venv/bin/python" install --quiet --no-compile --only-binary=:all: \
  -c "$pins" "$(echo "$wheels"/coresift-*.whl)[server,$target]" $packages

site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
# For those who compile against these libraries, or test them.
rm -rf "$site"/torch/include "$site"/torch/share "$site"/torch/test \
  "$site"/pyarrow/include "$site"/pyarrow/src "$site"/pyarrow/tests
find "$site/torch/bin" -type f ! -name torch_shm_manager -delete
find "$site" -name '*.a' -delete

# The image is read-only: compile now. Sources keep no meaningful times in layers, so none is asked.
"$venv/bin/python" -m compileall -q -j 0 --invalidation-mode unchecked-hash \
  -x /torch/testing/_internal/ "$site"
"$venv/bin/coresift" --version
