#!/usr/bin/env bash
# The demo in three containers: builds the image, starts cloud and edge, runs the device, takes all
# of it down again.
#
#   tools/demo_docker.sh [--small] [--keep] [--no-build]
#
#   --small     boards of 64 MB, 256 MB and 1 GB with 0.25, 0.5 and 1 CPU
#   --keep      leave cloud and edge running; their metrics are on 127.0.0.1:9120 and 9110, and
#               docker compose -p offramp -f docker/compose.yaml down --volumes ends them
#   --no-build  take the image offramp as it is
#
# Needs a Docker Engine (DOCKER_HOST names another one) and Compose, v1 or v2.

set -euo pipefail
cd "$(dirname "$0")/.."

files=(-f docker/compose.yaml)
keep=no
build=yes
for argument in "$@"; do
  case "$argument" in
    --small) files+=(-f docker/compose.small.yaml) ;;
    --keep) keep=yes ;;
    --no-build) build=no ;;
    -h | --help) sed -n '2,/^$/s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "demo_docker.sh: wanted --small, --keep or --no-build, found '$argument'" >&2; exit 64 ;;
  esac
done

if ! docker version >/dev/null 2>&1; then
  echo "demo_docker.sh: wanted a Docker Engine that answers 'docker version', found none" >&2
  exit 69
fi
if docker compose version >/dev/null 2>&1; then
  compose=(docker compose)
elif command -v docker-compose >/dev/null; then
  compose=(docker-compose)
else
  echo "demo_docker.sh: wanted 'docker compose' or docker-compose, found neither" >&2
  exit 69
fi
compose+=(-p offramp "${files[@]}")

log=$(mktemp "${TMPDIR:-/tmp}/offramp-docker.XXXXXX")
finish() {
  rm -f "$log"
  [ "$keep" = yes ] || "${compose[@]}" down --volumes --timeout 15 >/dev/null 2>&1 || true
}
trap finish EXIT
quietly() {
  if ! "$@" >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    echo "demo_docker.sh: failed: $*" >&2
    exit 1
  fi
}

if [ "$build" = yes ]; then
  echo "building the image offramp (some minutes the first time)" >&2
  quietly docker build -f docker/Dockerfile -t offramp ${OFFRAMP_BASE:+--build-arg "BASE=$OFFRAMP_BASE"} .
fi
echo "starting cloud and edge" >&2
quietly "${compose[@]}" up -d cloud edge
"${compose[@]}" run --rm -T device 2> >(grep -v -i -e 'creating offramp' -e 'starting offramp' -e 'container offramp' >&2)
