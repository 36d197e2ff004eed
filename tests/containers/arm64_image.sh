#!/usr/bin/env bash
# Builds the image for arm64 with BuildKit and runs it under qemu: --version, and the demo of three
# nodes on the sample pictures, whose names say what they show.
#
#   arm64_image.sh [--no-build] [--engine DIR]
#
# With the Docker Engine that `docker` reaches, or one that is started for it (with_engine.sh). Both
# base images are made of Debian's packages and come from a registry on loopback, as they would from
# any: BuildKit takes no image for another machine that it has at hand. Wants root and all that
# tools/setup.sh --containers --registry --arm64 installs.

set -euo pipefail
cd "$(dirname "$0")/../.."

quietly() { "$@" >"$log" 2>&1 || { tail -n 20 "$log" >&2; exit 1; }; }

# Debian's client has BuildKit built in; newer ones want a plugin for it.
buildkit() { DOCKER_BUILDKIT=1 "$docker" build --network host --progress plain "$@"; }

serve_registry() {
  cat >"$context/registry.yml" <<EOF
version: 0.1
storage: {filesystem: {rootdirectory: $context/registry}}
http: {addr: "$registry"}
EOF
  docker-registry serve "$context/registry.yml" >"$context/registry.log" 2>&1 &
}

base_for() { echo "$registry/offramp-base-$1"; }

make_base() {  # ARCHITECTURE
  local name
  name=$(base_for "$1")
  if ! docker image inspect "$name" >/dev/null 2>&1; then
    echo "making $name from Debian's packages" >&2
    quietly mmdebstrap --variant=minbase --arch="$1" --skip=output/dev bookworm "$context/base.tar"
    # Not `docker import`, which takes every archive for one of this machine's kind.
    printf 'FROM scratch\nADD base.tar /\n' >"$context/Dockerfile"
    quietly buildkit --platform "linux/$1" -t "$name" "$context"
  fi
  quietly docker push "$name"
}

build() {
  local here begin
  here=$(dpkg --print-architecture)
  serve_registry
  make_base "$here"
  make_base arm64
  echo "building the image offramp-arm64" >&2
  begin=$SECONDS
  quietly buildkit --platform linux/arm64 --build-arg "BUILD_BASE=$(base_for "$here")" \
    --build-arg "BASE=$(base_for arm64)" -t offramp-arm64 -f docker/Dockerfile .
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
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$context" "${folder:-}"' EXIT
registry=127.0.0.1:5077
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
