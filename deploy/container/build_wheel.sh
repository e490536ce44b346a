#!/bin/sh
# Builds the wheel of the source in the working directory: build_wheel.sh OUT
set -eu
out=$1

tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
python3 -m venv "$tools/venv"

# The build's own requirements, at the pinned versions: an isolated build would take the newest.
python3 - > "$tools/requirements.txt" <<'END'
import tomllib

with open("pyproject.toml", "rb") as file:
    print(*tomllib.load(file)["build-system"]["requires"], sep="\n")
END
"$tools/venv/bin/pip" install --quiet -c constraints.txt -r "$tools/requirements.txt"
"$tools/venv/bin/pip" wheel --quiet --no-deps --no-build-isolation --wheel-dir "$out" .
