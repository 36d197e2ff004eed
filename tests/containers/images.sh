#!/usr/bin/env bash
# Builds the images that the checks need, with the engine that `docker` reaches, or with another:
# OFFRAMP_ENGINE=podman.
#
#   images.sh [--only] [OPTION of docker build]...
#
# --only builds the image offramp alone. Where no registry answers, the base image comes from Debian's packages by debootstrap.

set -euo pipefail
cd "$(dirname "$0")/../.."
base=${OFFRAMP_BASE:-debian:bookworm-slim}
engine=${OFFRAMP_ENGINE:-docker}
only=no
[ "${1:-}" != --only ] || { only=yes; shift; }

if ! "$engine" image inspect "$base" >/dev/null 2>&1 && ! "$engine" pull -q "$base" >/dev/null 2>&1; then
  if [ "$(id -u)" -ne 0 ] || ! command -v debootstrap >/dev/null; then
    echo "images.sh: wanted $base, found no registry, and not root with debootstrap" >&2
    exit 77
  fi
  echo "making $base from Debian's packages" >&2
  root=$(mktemp -d "${TMPDIR:-/tmp}/offramp-base.XXXXXX")
  trap 'rm -rf "$root"' EXIT
  debootstrap --variant=minbase bookworm "$root/base" >"$root/log" 2>&1 \
    || { tail -n 5 "$root/log" >&2; exit 77; }
  tar -C "$root/base" -c . | "$engine" import - "$base" >/dev/null
fi

build() {
  local name=$1 begin=$SECONDS
  shift
  echo "building the image $name" >&2
  if ! "$engine" build -t "$name" --build-arg "BASE=$base" "$@" >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    exit 1
  fi
  echo "built $name in $((SECONDS - begin)) s" >&2
}
log=$(mktemp "${TMPDIR:-/tmp}/offramp-images.XXXXXX")
trap 'rm -rf "$log" "${root:-}"' EXIT
build "${OFFRAMP_IMAGE:-offramp}" "$@" ${OFFRAMP_BUILD_JOBS:+--build-arg "JOBS=$OFFRAMP_BUILD_JOBS"} \
  -f docker/Dockerfile .
[ "$only" = no ] || exit 0
build offramp-links "$@" --target links -f docker/Dockerfile .
[ -n "${OFFRAMP_PROMETHEUS_IMAGE:-}" ] \
  || build offramp-prometheus "$@" -f tests/containers/prometheus.Dockerfile tests/containers
