#!/usr/bin/env bash
# Runs a command with the Docker Engine that `docker` reaches, or where there is none, beside one that is
# started for it (with_engine.sh) and leaves nothing.
#
#   have_engine.sh [--images COMMAND] [--no-build] [--engine DIR] -- COMMAND...
#
#   --images COMMAND  builds what is wanted, and takes options of docker build (images.sh)
#   --no-build    take the images as they are
#   --engine DIR  where an engine that is started keeps its images from one run to the next
#
# Exit codes: the command's; 64 usage, 77 no engine can be had.

set -euo pipefail

cd "$(dirname "$0")/../.."
build=yes folder="" images=tests/containers/images.sh
while [ "$1" != -- ]; do
  case "$1" in
    --images) images=$2; shift ;;
    --no-build) build=no ;;
    --engine) folder=$(realpath -m "$2"); shift ;;
    *) echo "have_engine.sh: found '$1'" >&2; exit 64 ;;
  esac
  shift
done
shift

if docker version >/dev/null 2>&1; then
  [ "$build" = no ] || "$images"
  exec "$@"
fi

if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
  tools/setup.sh --containers || true
fi
if [ "$(id -u)" -ne 0 ] || ! command -v dockerd >/dev/null || ! command -v docker-compose >/dev/null; then
  echo "NO CONTAINER WAS TESTED: wanted a Docker Engine that answers, or root with dockerd and" \
    "docker-compose to start one; found neither" >&2
  exit 77
fi
if [ -z "$folder" ]; then
  folder=$(mktemp -d "${TMPDIR:-/tmp}/offramp-engine.XXXXXX")
  trap 'rm -rf "$folder"' EXIT
fi
code=0
if [ "$build" = yes ]; then
  tests/containers/with_engine.sh --online "$folder" "$images" --network host || code=$?
fi
[ $code -ne 0 ] || tests/containers/with_engine.sh --apart "$folder" "$@" || code=$?
[ $code -ne 77 ] || echo "NO CONTAINER WAS TESTED: no engine, as said above" >&2
exit $code
