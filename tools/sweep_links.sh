#!/usr/bin/env bash
# Latency and accuracy against the threshold over shaped links between three containers: bench/links.py with
# an engine and the images that it wants.
#
#   tools/sweep_links.sh [--no-build] [--engine DIR] [OPTION of bench/links.py]...
#
# --no-build and --engine are those of tools/docker_tests.sh.

set -euo pipefail

. "$(dirname "$0")/../tests/containers/engine_options.sh"
cd "$(dirname "$0")/.."
exec tests/containers/have_engine.sh "${engine[@]}" -- "$python" bench/links.py "${words[@]}"
