#!/usr/bin/env bash
# Sets up, builds and runs all tests. The last line is the summary.
#
#   tools/test.sh [options of ctest]
#
# With OFFRAMP_DATA=DIR, where DIR holds cifar-10-batches-bin, the tests on CIFAR-10 run too.

set -euo pipefail

if [ "${1:-}" = -h ] || [ "${1:-}" = --help ]; then
  sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
  exit 0
fi
if [ -n "${OFFRAMP_DATA:-}" ]; then
  OFFRAMP_DATA=$(realpath -e "$OFFRAMP_DATA")
  export OFFRAMP_DATA
fi
cd "$(dirname "$0")/.."
tools/setup.sh --tests
cmake --preset release >&2
cmake --build --preset release >&2
log=build/release/ctest.log
status=0
ctest --preset release --no-label-summary "$@" | tee "$log" || status=$?
echo
grep 'tests passed' "$log" || echo "no test ran"
exit "$status"
