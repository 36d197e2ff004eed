#!/usr/bin/env bash
# Installs what offramp needs from Debian 12's packages; does nothing where all of it is there.
#
#   tools/setup.sh [--tests] [--checks] [--faults] [--containers]
#
#   (nothing)   compiler, CMake and libraries: enough for the build and the demo
#   --tests     also Python with PyTorch, for the tests, the training and the export
#   --checks    also clang's format, tidy and fuzzer, for check.sh and fuzz.sh
#   --faults    also what fault_tests.sh needs to cut networks and to skew clocks
#   --containers  also a Docker Engine with Compose, and Podman, for docker_tests.sh and k8s_tests.sh
#
# Needs root or sudo, and a network, only when something is missing.

set -euo pipefail

packages=(
  g++ cmake ninja-build pkgconf
  libcli11-dev libcpp-httplib-dev liblz4-dev libopenblas-dev libsodium-dev libspdlog-dev libstb-dev
  libtomlplusplus-dev libxsimd-dev libxxhash-dev libzmq3-dev nlohmann-json3-dev prometheus-cpp-dev
  doctest-dev libbenchmark-dev
)
for argument in "$@"; do
  case "$argument" in
    --tests)
      packages+=(ca-certificates curl python3 python3-lz4 python3-matplotlib python3-numpy python3-pil
                 python3-torch python3-torchvision python3-xxhash python3-zmq) ;;
    --checks) packages+=(clang clang-format clang-tidy libclang-rt-14-dev) ;;
    --faults) packages+=(faketime iproute2 iptables) ;;
    --containers) packages+=(aardvark-dns catatonit debootstrap docker-compose docker.io iproute2
                  iptables netavark podman runc) ;;
    -h | --help) sed -n '2,/^$/s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "setup.sh: wanted --tests, --checks, --faults or --containers, found '$argument'" >&2; exit 64 ;;
  esac
done

if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
  echo "setup.sh: wanted Debian's apt-get, found none; install by hand: ${packages[*]}" >&2
  exit 69
fi

missing=()
for package in "${packages[@]}"; do
  state=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null) || state=absent
  [ "$state" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "setup.sh: wanted root or sudo, found neither; missing: ${missing[*]}" >&2
    exit 69
  fi
  as_root=(sudo)
fi

log=$(mktemp "${TMPDIR:-/tmp}/offramp-setup.XXXXXX")
trap 'rm -f "$log"' EXIT
apt() {
  if ! "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o Dpkg::Use-Pty=0 "$@" \
      >"$log" 2>&1; then
    tail -n 15 "$log" >&2
    echo "setup.sh: apt-get $1 failed" >&2
    exit 69
  fi
}
echo "setup.sh: installing from Debian: ${missing[*]}" >&2
apt update
apt install --no-install-recommends "${missing[@]}"
echo "setup.sh: $(grep -c '^Setting up' "$log" || true) packages installed" >&2
