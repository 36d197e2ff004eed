#!/usr/bin/env bash
# Device, edge and cloud as containers of a real engine: builds the images, runs them, and checks
# answers, limits, kills, moves, stops and replicas. A line for each check says PASS or FAIL.
#
#   tools/docker_tests.sh [--quick] [--no-build] [--engine DIR] [--list] [CHECK...]
#   tools/docker_tests.sh --arm64 [--no-build] [--engine DIR]
#
#   --quick       less of the same
#   --no-build    take the images as they are
#   --engine DIR  where an engine is started for the tests: keep its images there
#   --arm64       instead: the image for arm64, cross-built by BuildKit; its three nodes under qemu
#
# Takes the Docker Engine that `docker` reaches, on this machine. Where there is none, root starts
# one of its own (Debian: docker.io) in namespaces that end with the tests, and leaves nothing.
# Exit codes: 0 all hold, 1 some do not, 64 usage, 77 no engine can be had.
# OFFRAMP_BASE names another base image of Debian 12 (not for arm64), OFFRAMP_BUILD_JOBS the compilers
# at once.

set -euo pipefail

. "$(dirname "$0")/../tests/containers/engine_options.sh"
cd "$(dirname "$0")/.."
if [ "${words[*]}" = --arm64 ]; then
  tools/setup.sh --registry --arm64
  image=tests/containers/arm64_image.sh
  exec tests/containers/have_engine.sh --images $image "${engine[@]}" -- $image --check
fi
checks=("$python" tests/containers/run.py "${words[@]}")
[[ " ${words[*]} " != *" --list "* ]] || exec "${checks[@]}"
exec tests/containers/have_engine.sh "${engine[@]}" -- "${checks[@]}"
