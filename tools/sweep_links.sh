#!/usr/bin/env bash
# Latency and accuracy against the threshold over shaped links between three containers: bench/links.py with
# an engine and the images that it wants.
#
#   tools/sweep_links.sh [--no-build] [--engine DIR] [OPTION of bench/links.py]...
#
# --no-build and --engine are those of tools/docker_tests.sh.

set -euo pipefail

here=$PWD
cd "$(dirname "$0")/.."
engine=() words=()
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help) sed -n '2,/^$/s/^# \{0,1\}//p' "$0"; exit 0 ;;
    --no-build) engine+=("$1") ;;
    --engine)
      [ $# -gt 1 ] || { echo "sweep_links.sh: --engine: wanted a folder, found nothing" >&2; exit 64; }
      engine+=("$1" "$(cd "$here" && realpath -m "$2")")
      shift ;;
    *) words+=("$1") ;;
  esac
  shift
done
python=/usr/bin/python3
[ -x "$python" ] || python=python3
exec tests/containers/have_engine.sh "${engine[@]}" -- "$python" bench/links.py "${words[@]}"
