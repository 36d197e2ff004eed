#!/usr/bin/env bash
# Builds and runs the C++ tests with assertions under the sanitizers.
#
#   tools/sanitize.sh [dev] [tsan]
#
#   dev    AddressSanitizer and UndefinedBehaviorSanitizer
#   tsan   ThreadSanitizer

set -euo pipefail

presets=()
for argument in "$@"; do
  case "$argument" in
    dev | tsan) presets+=("$argument") ;;
    -h | --help) sed -n '2,/^$/s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "sanitize.sh: wanted dev or tsan, found '$argument'" >&2; exit 64 ;;
  esac
done
[ ${#presets[@]} -gt 0 ] || presets=(dev tsan)
cd "$(dirname "$0")/.."
tools/setup.sh

# GCC 12's ThreadSanitizer does not find its shadow memory where the kernel randomises addresses by
# 32 bits; a container may forbid to turn that off.
fixed_addresses=()
if setarch "$(uname -m)" -R true 2>/dev/null; then fixed_addresses=(setarch "$(uname -m)" -R); fi

for preset in "${presets[@]}"; do
  cmake --preset "$preset" >&2
  cmake --build --preset "$preset" >&2
  "${fixed_addresses[@]}" ctest --preset "$preset" --no-label-summary
done
