#!/usr/bin/env bash
# Makes Debian's packages, installs them in a bare Debian 12 of its own, uses and purges them there,
# and then once more in one that systemd runs.
#
#   tools/package_tests.sh
#
# Two to five minutes after the build, most of them downloads (OFFRAMP_DEBIAN=URL names the mirror).
# Needs root, and systemd-nspawn for the last part; exits with 77 and says so where it lacks them.

set -euo pipefail

if [ "${1:-}" = -h ] || [ "${1:-}" = --help ]; then
  sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
  exit 0
fi
cd "$(dirname "$0")/.."
tools/setup.sh --tests --packages
cmake --preset release >&2
cmake --build --preset release --target offramp offramp_client offramp_manual >&2
python=/usr/bin/python3
[ -x "$python" ] || python=python3
export OFFRAMP_BINARY=$PWD/build/release/offramp OFFRAMP_BUILD=$PWD/build/release
"$python" tests/package_test.py
"$python" tests/package_chroot.py
exec "$python" tests/package_systemd.py
