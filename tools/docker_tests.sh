#!/usr/bin/env bash
# Device, edge and cloud as containers of a real engine: builds the images, runs them, and checks
# answers, limits, kills, moves, stops and replicas. A line for each check says PASS or FAIL.
#
#   tools/docker_tests.sh [--quick] [--no-build] [--engine DIR] [--list] [CHECK...]
#
#   --quick       less of the same
#   --no-build    take the images as they are
#   --engine DIR  where an engine is started for the tests: keep its images there
#
# Takes the Docker Engine that `docker` reaches, on this machine. Where there is none, root starts
# one of its own (Debian: docker.io) in namespaces that end with the tests, and leaves nothing.
# Exit codes: 0 all hold, 1 some do not, 64 usage, 77 no engine can be had.
# OFFRAMP_BASE names another base image of Debian 12, OFFRAMP_BUILD_JOBS the compilers at once.

set -euo pipefail

here=$PWD
cd "$(dirname "$0")/.."
build=yes folder="" words=()
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help) sed -n '2,/^$/s/^# \{0,1\}//p' "$0"; exit 0 ;;
    --no-build) build=no ;;
    --engine)
      [ $# -gt 1 ] || { echo "docker_tests.sh: --engine: wanted a folder, found nothing" >&2; exit 64; }
      folder=$(cd "$here" && realpath -m "$2")
      shift ;;
    *) words+=("$1") ;;
  esac
  shift
done
python=/usr/bin/python3
[ -x "$python" ] || python=python3
checks=("$python" tests/containers/run.py "${words[@]}")
[[ " ${words[*]} " != *" --list "* ]] || exec "${checks[@]}"

if docker version >/dev/null 2>&1; then
  [ "$build" = no ] || tests/containers/images.sh
  exec "${checks[@]}"
fi

if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
  tools/setup.sh --containers || true
fi
if [ "$(id -u)" -ne 0 ] || ! command -v dockerd >/dev/null || ! command -v docker-compose >/dev/null; then
  echo "docker_tests.sh: NO CONTAINER WAS TESTED: wanted a Docker Engine that answers, or root with" \
    "dockerd and docker-compose to start one; found neither" >&2
  exit 77
fi
if [ -z "$folder" ]; then
  folder=$(mktemp -d "${TMPDIR:-/tmp}/offramp-engine.XXXXXX")
  trap 'rm -rf "$folder"' EXIT
fi
code=0
if [ "$build" = yes ]; then
  tests/containers/with_engine.sh --online "$folder" tests/containers/images.sh --network host || code=$?
fi
[ $code -ne 0 ] || tests/containers/with_engine.sh --apart "$folder" "${checks[@]}" || code=$?
[ $code -ne 77 ] || echo "docker_tests.sh: NO CONTAINER WAS TESTED: no engine, as said above" >&2
exit $code
