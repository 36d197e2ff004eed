#!/usr/bin/env bash
# Runs a command beside a Docker Engine of its own, of which nothing is left afterwards.
#
#   with_engine.sh --online | --apart  FOLDER COMMAND...
#
#   --online   containers have no bridge; builds reach the network with --network host
#   --apart    a network namespace of its own: containers and the command see each other and
#              nothing else
#
# FOLDER keeps the engine's images from one call to the next, and its log. The command finds the
# engine by DOCKER_HOST. Processes, mounts and networks of both end with it. Wants root and dockerd
# (Debian: docker.io); 77 when the engine does not come up.

set -euo pipefail

if [ "$1" != --inside ]; then
  kinds=(--mount --pid --fork --kill-child --mount-proc --propagation private)
  [ "$1" = --online ] || kinds+=(--net)
  exec unshare "${kinds[@]}" "$0" --inside "$@"
fi
kind=$2 folder=$3
shift 3
mkdir -p "$folder"
cd "$folder"
options=(--data-root "$folder/data" --exec-root "$folder/exec" --pidfile "$folder/pid"
         --host "unix://$folder/docker.sock")
if [ "$kind" = --online ]; then
  options+=(--bridge none --iptables=false)
else
  ip link set lo up
fi
rm -rf pid docker.sock exec
dockerd "${options[@]}" >>engine.log 2>&1 &
engine=$!
export DOCKER_HOST="unix://$folder/docker.sock"
for _ in $(seq 150); do
  docker version >/dev/null 2>&1 && break
  kill -0 $engine 2>/dev/null || break
  sleep 0.2
done
if ! docker version >/dev/null 2>&1; then
  echo "with_engine.sh: wanted an engine, found: $(tail -n 1 engine.log)" >&2
  exit 77
fi
cd - >/dev/null
code=0
"$@" || code=$?
kill $engine
wait $engine || true
exit $code
