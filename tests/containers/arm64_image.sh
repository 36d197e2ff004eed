#!/usr/bin/env bash
# The image for arm64, built by BuildKit with the engine that `docker` reaches, and run under qemu:
# --version, and the demo of three nodes on the sample pictures, whose names say what they show.
#
#   arm64_image.sh [OPTION of docker build]...
#   arm64_image.sh --check
#
# Both base images are made of Debian's packages and come from a registry on loopback, as they would
# from any: BuildKit takes no image for another machine that it has at hand. Wants root and all that
# tools/setup.sh --containers --registry --arm64 installs.

set -euo pipefail
cd "$(dirname "$0")/../.."

# Debian's client has BuildKit built in; newer ones want a plugin for it.
docker=/usr/bin/docker
[ -x "$docker" ] || docker=docker
registry=127.0.0.1:5077
image=offramp-arm64

if [ "${1:-}" = --check ]; then
  code=0
  check() {  # WHAT FOUND PATTERN
    if [[ $2 =~ $3 ]]; then
      echo "PASS  $1"
    else
      printf 'FAIL  %s: wanted %s, found %s\n' "$1" "$3" "$2"
      code=1
    fi
  }
  run() { "$docker" run --rm --platform linux/arm64 --network none --read-only --tmpfs /tmp $image "$@" 2>&1; }
  found=$("$docker" image inspect -f '{{.Os}}/{{.Architecture}}' $image)
  check "the image is for arm64" "$found" '^linux/arm64$'
  check "it runs, with the NEON kernels" "$(run --version || true)" ': scalar neon$'
  demo=$(run demo || true)
  right=$(awk '/\.png/ && $1 ~ "^" $2 "-" && $NF == "ok"' <<<"$demo" | wc -l)
  check "device, edge and cloud classify every sample as what it is" \
    "$right right, $demo" "^$(find tools/samples -name '*.png' | wc -l) right"
  exit $code
fi

context=$(mktemp -d "${TMPDIR:-/tmp}/offramp-arm64.XXXXXX")
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$context"' EXIT
quietly() { "$@" >"$context/log" 2>&1 || { tail -n 20 "$context/log" >&2; exit 1; }; }
buildkit() { DOCKER_BUILDKIT=1 "$docker" build --progress plain "$@"; }

cat >"$context/registry.yml" <<EOF
version: 0.1
storage: {filesystem: {rootdirectory: $context/registry}}
http: {addr: "$registry"}
EOF
listening() { (: <"/dev/tcp/${registry/://}") 2>/dev/null; }
if listening; then
  echo "arm64_image.sh: wanted $registry for a registry, found something that listens there" >&2
  exit 1
fi
docker-registry serve "$context/registry.yml" >"$context/registry.log" 2>&1 &
for _ in $(seq 50); do
  ! listening || break
  sleep 0.2
done
if ! listening; then
  echo "arm64_image.sh: wanted a registry at $registry, found: $(tail -n 1 "$context/registry.log")" >&2
  exit 1
fi

base_for() { echo "$registry/offramp-base-$1"; }
make_base() {  # ARCHITECTURE
  local name
  name=$(base_for "$1")
  if ! "$docker" image inspect "$name" >/dev/null 2>&1; then
    echo "making $name from Debian's packages" >&2
    quietly mmdebstrap --variant=minbase --arch="$1" --skip=output/dev bookworm "$context/base.tar"
    # Not `docker import`, which takes every archive for one of this machine's kind.
    printf 'FROM scratch\nADD base.tar /\n' >"$context/Dockerfile"
    quietly buildkit --platform "linux/$1" -t "$name" "$context"
  fi
  quietly "$docker" push "$name"
}

here=$(dpkg --print-architecture)
make_base "$here"
make_base arm64
echo "building the image $image" >&2
begin=$SECONDS
quietly buildkit --platform linux/arm64 "$@" ${OFFRAMP_BUILD_JOBS:+--build-arg "JOBS=$OFFRAMP_BUILD_JOBS"} \
  --build-arg "BUILD_BASE=$(base_for "$here")" --build-arg "BASE=$(base_for arm64)" -t $image \
  -f docker/Dockerfile .
echo "built $image in $((SECONDS - begin)) s" >&2
