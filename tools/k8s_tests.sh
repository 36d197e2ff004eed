#!/usr/bin/env bash
# The manifests of docker/k8s: against the published schemas, each other and what a node exports;
# and their pods, played by Podman with two edges and two clouds.
#
#   tools/k8s_tests.sh [--engine DIR] [--archive FILE] [manifests | pods]
#
#   --engine DIR    where Podman keeps its images from one run to the next
#   --archive FILE  the image, as `docker save offramp` wrote it; otherwise Podman builds it
#
# `manifests` wants kubectl or kustomize, and takes the schemas from PyPI (kubernetes-validate) into
# build/k8s. `pods` wants root and Debian's Podman. Exit codes: 0 all hold, 1 some do not, 64 usage,
# 77 when what is wanted is not there.

set -euo pipefail

here=$PWD
cd "$(dirname "$0")/.."
folder="" archive="" parts=()
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help) sed -n '2,/^$/s/^# \{0,1\}//p' "$0"; exit 0 ;;
    --engine | --archive)
      [ $# -gt 1 ] || { echo "k8s_tests.sh: $1: wanted a path, found nothing" >&2; exit 64; }
      path=$(cd "$here" && realpath -m "$2")
      if [ "$1" = --engine ]; then folder=$path; else archive=$path; fi
      shift ;;
    manifests | pods) parts+=("$1") ;;
    *) echo "k8s_tests.sh: wanted manifests or pods, found '$1'" >&2; exit 64 ;;
  esac
  shift
done
[ ${#parts[@]} -gt 0 ] || parts=(manifests pods)

refuse() {
  echo "k8s_tests.sh: NOTHING OF THIS WAS TESTED: ${part}: $*" >&2
  exit 77
}
part=manifests
command -v kubectl >/dev/null || command -v kustomize >/dev/null \
  || refuse "wanted kubectl or kustomize, found neither"
python=build/k8s/bin/python
if ! "$python" -c 'import kubernetes_validate' 2>/dev/null; then
  { python3 -m venv build/k8s && build/k8s/bin/pip install -q 'kubernetes-validate==1.37.0'; } >&2 \
    || refuse "wanted kubernetes-validate from PyPI, found that pip cannot have it"
fi

code=0
for part in "${parts[@]}"; do
  if [ "$part" = manifests ]; then
    if [ -z "${OFFRAMP_BINARY:-}" ]; then
      tools/setup.sh
      cmake --preset release >&2
      cmake --build --preset release --target offramp >&2
    fi
    "$python" tests/containers/k8s.py manifests || code=1
    continue
  fi
  [ "$(id -u)" -eq 0 ] || refuse "wanted root, found another user"
  for tool in podman runc catatonit nsenter curl ip; do
    command -v $tool >/dev/null || refuse "wanted $tool, found none (tools/setup.sh --containers)"
  done
  mine=""
  if [ -z "$folder" ]; then
    folder=$(mktemp -d "${TMPDIR:-/tmp}/offramp-podman.XXXXXX")
    mine=$folder
    trap 'rm -rf "$mine"' EXIT
  fi
  if [ -n "$archive" ]; then
    tests/containers/with_podman.sh --apart "$folder" podman load -q -i "$archive" >&2
  else
    OFFRAMP_ENGINE=podman tests/containers/with_podman.sh --online "$folder" \
      tests/containers/images.sh --only --network host
  fi
  tests/containers/with_podman.sh --apart "$folder" "$python" tests/containers/k8s.py pods || code=1
done
exit $code
