#!/usr/bin/env bash
# What every change must pass: format, lint, build, tests.
#
#   tools/check.sh [format] [tidy] [build] [test]
#
# Runs the named steps, or all of them. FILES="a.cpp b.cpp" limits tidy to those files.

set -euo pipefail

steps=()
for argument in "$@"; do
  case "$argument" in
    format | tidy | build | test) steps+=("$argument") ;;
    -h | --help) sed -n '2,/^$/s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "check.sh: wanted format, tidy, build or test, found '$argument'" >&2; exit 64 ;;
  esac
done
[ ${#steps[@]} -gt 0 ] || steps=(format tidy build test)
cd "$(dirname "$0")/.."
tools/setup.sh --checks

sources() { find kernels engine net tools tests bench -name "$1" | sort; }

configure() { [ -f build/release/build.ninja ] || cmake --preset release; }

check_format() { { sources '*.cpp'; sources '*.h'; } | xargs clang-format --dry-run -Werror; }

# One process per file and core.
# Files for other architectures are in no compilation database and are left out.
check_tidy() {
  configure >/dev/null
  for file in ${FILES:-$(sources '*.cpp')}; do
    if grep -q "/$file\"" build/release/compile_commands.json; then echo "$file"; fi
  done | xargs -r -P "$(nproc)" -n 1 clang-tidy -p build/release --quiet --warnings-as-errors='*' \
      2> >(grep -vE 'warnings? generated' >&2)
}

check_build() { configure && cmake --build --preset release; }

check_test() { tools/test.sh; }

for step in "${steps[@]}"; do
  echo "check.sh: $step" >&2
  if ! "check_$step"; then
    echo "check.sh: $step failed" >&2
    exit 1
  fi
done
echo "check.sh: ${steps[*]} passed" >&2
