#!/usr/bin/env bash
# Sets up, builds and runs the demo: real pictures across device, edge and cloud on this machine.
#
#   tools/demo.sh [options of `offramp demo`]

set -euo pipefail

if [ "${1:-}" = -h ] || [ "${1:-}" = --help ]; then
  sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
  exit 0
fi
here=$PWD
cd "$(dirname "$0")/.."
root=$PWD
tools/setup.sh
[ -f build/release/build.ninja ] || cmake --preset release >&2
cmake --build --preset release --target offramp >&2
cd "$here"
exec "$root/build/release/offramp" demo "$@"
