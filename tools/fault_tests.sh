#!/usr/bin/env bash
# Faults on purpose: what must come of each is in a table of 21 rows (tests/faults/rows_*.py).
#
#   tools/fault_tests.sh [--quick | --all | --list | ROW...] [--except ROW]...
#   tools/fault_tests.sh soak [--seconds N] [--seed N] [--devices N] [--out FILE]
#
# Each row starts processes of its own and prints PASS, FAIL or SKIP with what it saw; SKIP says
# what this machine lacks (root, network namespaces, cgroups). --quick takes those that need less
# than a minute in all, --all gives each row more time. `soak` is a seeded schedule of
# eleven faults of processes and links for ten minutes, and then checks the history of every request.

set -euo pipefail

if [ "${1:-}" = -h ] || [ "${1:-}" = --help ]; then
  sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
  exit 0
fi
cd "$(dirname "$0")/.."
tools/setup.sh --tests --faults
cmake --preset release >&2
cmake --build --preset release --target offramp offramp_tests chaos_proxy >&2
python=/usr/bin/python3
[ -x "$python" ] || python=python3
exec "$python" tests/faults/run.py "$@"
