#!/usr/bin/env bash
# Installs what offramp needs from Debian 12's packages; does nothing where all of it is there.
#
#   tools/setup.sh [--tests] [--checks] [--faults] [--packages] [--containers]
#                  [--registry] [--arm64] [--arm64-compiler]
#
#   (nothing)   compiler, CMake and libraries: enough for the build and the demo
#   --tests     also Python with PyTorch, for the tests, the training and the export
#   --checks    also clang's format, tidy and fuzzer, for check.sh and fuzz.sh
#   --faults    also what fault_tests.sh needs to cut networks and to skew clocks
#   --packages  also what makes, checks and installs Debian's packages
#   --containers  also a Docker Engine with Compose, and Podman, for docker_tests.sh and k8s_tests.sh
#   --registry  also a registry of images, for docker_tests.sh --arm64
#   --arm64     also a cross compiler, an emulator that runs what it makes, and the libraries for
#               arm64 in build/arm64-root: all that the preset arm64 needs
#   --arm64-compiler  the same without the emulator
#
# Needs root or sudo, and a network, only when something is missing.

set -euo pipefail

libraries=(
  libcli11-dev libcpp-httplib-dev liblz4-dev libopenblas-dev libsodium-dev libspdlog-dev libstb-dev
  libtomlplusplus-dev libxsimd-dev libxxhash-dev libzmq3-dev nlohmann-json3-dev prometheus-cpp-dev
  doctest-dev libbenchmark-dev
)
packages=(g++ cmake ninja-build pkgconf "${libraries[@]}")
arm64=no emulator=no
for argument in "$@"; do
  case "$argument" in
    --tests)
      packages+=(ca-certificates curl python3 python3-lz4 python3-matplotlib python3-numpy python3-pil
                 python3-torch python3-torchvision python3-xxhash python3-zmq) ;;
    --checks) packages+=(clang clang-format clang-tidy libclang-rt-14-dev) ;;
    --faults) packages+=(faketime iproute2 iptables) ;;
    --packages) packages+=(debootstrap dpkg-dev file iproute2 lintian man-db mandoc systemd
                  systemd-container) ;;
    --containers) packages+=(aardvark-dns catatonit debootstrap docker-compose docker.io iproute2
                  iptables netavark podman runc) ;;
    --registry) packages+=(docker-registry) ;;
    --arm64 | --arm64-compiler)
      packages+=(g++-aarch64-linux-gnu mmdebstrap)
      arm64=yes
      [ "$argument" = --arm64-compiler ] || { packages+=(arch-test qemu-user-static); emulator=yes; } ;;
    -h | --help) sed -n '2,/^$/s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "setup.sh: wanted an option that --help lists, found '$argument'" >&2; exit 64 ;;
  esac
done

if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
  echo "setup.sh: wanted Debian's apt-get, found none; install by hand: ${packages[*]}" >&2
  exit 69
fi

as_root=()
need_root() {
  [ "$(id -u)" -ne 0 ] || return 0
  if ! command -v sudo >/dev/null; then
    echo "setup.sh: wanted root or sudo, found neither; missing: $*" >&2
    exit 69
  fi
  as_root=(sudo)
}

log=$(mktemp "${TMPDIR:-/tmp}/offramp-setup.XXXXXX")
trap 'rm -f "$log"' EXIT
# quietly NAME COMMAND...: shows what it printed only when it fails.
quietly() {
  if ! "${@:2}" >"$log" 2>&1; then
    tail -n 15 "$log" >&2
    echo "setup.sh: $1 failed" >&2
    exit 69
  fi
}
apt() {
  quietly "apt-get $1" "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get -q -y -o Dpkg::Use-Pty=0 "$@"
}

missing=()
for package in "${packages[@]}"; do
  state=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null) || state=absent
  [ "$state" = installed ] || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
  need_root "${missing[@]}"
  echo "setup.sh: installing from Debian: ${missing[*]}" >&2
  apt update
  apt install --no-install-recommends "${missing[@]}"
  echo "setup.sh: $(grep -c '^Setting up' "$log" || true) packages installed" >&2
fi
[ "$arm64" = yes ] || exit 0

# The libraries as Debian's packages for arm64 hold them, unpacked and not installed: nothing of
# them has to run.
root=$(dirname "$0")/../build/arm64-root
wanted=$(IFS=,; echo "libc6-dev,libstdc++-12-dev,${libraries[*]}")
if [ "$(cat "$root/.packages" 2>/dev/null)" != "$wanted" ]; then
  echo "setup.sh: unpacking libraries for arm64 into build/arm64-root" >&2
  rm -rf "$root"
  mkdir -p "$root"
  quietly mmdebstrap mmdebstrap --variant=extract --arch=arm64 --include="$wanted" \
    --skip=output/dev --format=directory bookworm "$root"
  # Links to the root of the file system they were made for.
  find "$root" -lname '/*' -printf '%p\t%l\n' | while IFS=$'\t' read -r link target; do
    ln -sfnr "$root$target" "$link"
  done
  # One of Debian's alternatives, of which none is chosen where packages are only unpacked.
  ln -sn openblas-pthread/libopenblas.so.0 "$root/usr/lib/aarch64-linux-gnu/"
  echo "$wanted" >"$root/.packages"
fi
[ "$emulator" = yes ] || exit 0

# Linux then starts a program for arm64 like any other.
formats=/proc/sys/fs/binfmt_misc
if [ ! -e "$formats/qemu-aarch64" ]; then
  need_root "qemu-aarch64 in $formats"
  [ -e "$formats/register" ] || "${as_root[@]}" mount -t binfmt_misc binfmt_misc "$formats"
  "${as_root[@]}" tee "$formats/register" </usr/lib/binfmt.d/qemu-aarch64.conf >/dev/null
fi
