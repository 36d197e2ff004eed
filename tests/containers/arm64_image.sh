#!/usr/bin/env bash
# Builds the image for arm64 with BuildKit and runs it under qemu: --version, and the demo of three
# nodes on the sample pictures, whose names say what they show.
#
#   arm64_image.sh [--no-build] [--engine DIR]
#
# With the Docker Engine that `docker` reaches, or one that is started for it (with_engine.sh). Both
# base images come from Debian's packages, so that no registry is needed. Wants root and all that
# tools/setup.sh --containers --arm64 installs.

set -euo pipefail
cd "$(dirname "$0")/../.."

quietly() { "$@" >"$log" 2>&1 || { tail -n 20 "$log" >&2; exit 1; }; }

# Debian's client has BuildKit built in; newer ones want a plugin for it.
buildkit() { DOCKER_BUILDKIT=1 "$docker" build --network host --progress plain "$@"; }

make_base() {  # NAME ARCHITECTURE
  docker image inspect "$1" >/dev/null 2>&1 && return
  echo "making $1 from Debian's packages" >&2
  quietly mmdebstrap --variant=minbase --arch="$2" --skip=output/dev bookworm "$context/base.tar"
  # Not `docker import`, which takes every archive for one of this machine's kind.
  printf 'FROM scratch\nADD base.tar /\n' >"$context/Dockerfile"
  quietly buildkit --platform "linux/$2" -t "$1" "$context"
}

build() {
  local here begin
  here=$(dpkg --print-architecture)
  make_base "offramp-base-$here" "$here"
  make_base offramp-base-arm64 arm64
  echo "building the image offramp-arm64" >&2
  begin=$SECONDS
  quietly buildkit --platform linux/arm64 --build-arg "BUILD_BASE=offramp-base-$here" \
    --build-arg BASE=offramp-base-arm64 -t offramp-arm64 -f docker/Dockerfile .
  echo "built offramp-arm64 in $((SECONDS - begin)) s" >&2
}

check() {  # WHAT COMMAND...
  if "${@:2}" >"$log" 2>&1; then
    echo "PASS  $1"
  else
    echo "FAIL  $1"
    tail -n 20 "$log"
    code=1
  fi
}
run() { docker run --rm --platform linux/arm64 --network none --read-only --tmpfs /tmp offramp-arm64 "$@"; }
for_arm64() { [ "$(docker image inspect -f '{{.Os}}/{{.Architecture}}' offramp-arm64)" = linux/arm64 ]; }
neon() { run --version | tee /dev/stderr | grep -q ': scalar neon$'; }
three_nodes() {
  run demo | tee /dev/stderr | awk '/\.png/ { ++all; if ($1 ~ "^" $2 "-" && $NF == "ok") ++good }
    END { exit !(all > 0 && all == good) }'
}

context=$(mktemp -d "${TMPDIR:-/tmp}/offramp-arm64.XXXXXX")
log=$context/log
trap 'rm -rf "$context" "${folder:-}"' EXIT
docker=/usr/bin/docker
[ -x "$docker" ] || docker=docker
if [ "${1:-}" = --inside ]; then
  [ "$2" = no ] || build
  code=0
  check "the image is for arm64" for_arm64
  check "it runs, with the NEON kernels" neon
  check "device, edge and cloud classify every sample as what it is" three_nodes
  exit $code
fi

build=yes kept=""
while [ $# -gt 0 ]; do
  case "$1" in
    --no-build) build=no ;;
    --engine) kept=$(realpath -m "$2"); shift ;;
    *) echo "arm64_image.sh: found '$1'" >&2; exit 64 ;;
  esac
  shift
done
if docker version >/dev/null 2>&1; then exec "$0" --inside $build; fi
[ -n "$kept" ] || folder=$(mktemp -d "${TMPDIR:-/tmp}/offramp-engine.XXXXXX")
tests/containers/with_engine.sh --online "${kept:-$folder}" "$0" --inside $build
