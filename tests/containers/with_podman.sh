#!/usr/bin/env bash
# Runs a command that uses Podman, in namespaces that end with it; the twin of with_engine.sh.
#
#   with_podman.sh --online | --apart  FOLDER COMMAND...
#
# FOLDER keeps the images from one call to the next. Wants root, and Podman with netavark,
# aardvark-dns and catatonit.

set -euo pipefail

if [ "$1" != --inside ]; then
  kinds=(--mount --pid --fork --kill-child --mount-proc --propagation private)
  [ "$1" = --online ] || kinds+=(--net)
  exec unshare "${kinds[@]}" catatonit -- "$0" --inside "$@"
fi
kind=$2 folder=$3
shift 3
mkdir -p "$folder"
# Locks, and the state of containers that have ended with another namespace.
mount -t tmpfs none /run
mount -t tmpfs none /dev/shm
[ "$kind" = --online ] || ip link set lo up
cat >"$folder/containers.conf" <<'CONF'
[network]
network_backend = "netavark"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
CONF
cat >"$folder/storage.conf" <<CONF
[storage]
driver = "overlay"
graphroot = "$folder/storage"
runroot = "/run/offramp-storage"
CONF
export CONTAINERS_CONF="$folder/containers.conf" CONTAINERS_STORAGE_CONF="$folder/storage.conf"
code=0
"$@" || code=$?
podman pod rm --all --force --time 5 >/dev/null 2>&1 || true
podman rm --all --force --time 5 >/dev/null 2>&1 || true
podman volume rm --all --force >/dev/null 2>&1 || true
podman secret rm --all >/dev/null 2>&1 || true
exit $code
