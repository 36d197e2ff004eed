#!/usr/bin/env bash
# Runs every fuzzer for a while; the corpus grows under build/fuzz/corpus/ and is used again.
#
#   tools/fuzz.sh [SECONDS [FUZZER...]]
#
# 60 seconds and all fuzzers unless told otherwise. A finding is kept in build/fuzz/findings/.

set -euo pipefail

if [ "${1:-}" = -h ] || [ "${1:-}" = --help ]; then
  sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
  exit 0
fi
seconds=${1:-60}
if ! [[ $seconds =~ ^[1-9][0-9]*$ ]]; then
  echo "fuzz.sh: wanted a number of seconds, found '$seconds'" >&2
  exit 64
fi
cd "$(dirname "$0")/.."
fuzzers=("${@:2}")
if [ ${#fuzzers[@]} -eq 0 ]; then
  for file in tests/fuzz/*_fuzz.cpp; do fuzzers+=("$(basename "$file" .cpp)"); done
fi
tools/setup.sh --checks
cmake --preset fuzz >&2
cmake --build --preset fuzz --target "${fuzzers[@]}" >&2

# Inputs longer than what they are made for only make a fuzzer slow.
longest() {
  case "$1" in
    service_fuzz) echo 256 ;;
    config_fuzz | keys_fuzz) echo 512 ;;
    link_fuzz) echo 1024 ;;
    message_fuzz | tensor_codec_fuzz) echo 4096 ;;
    *) echo 16384 ;;
  esac
}
export -f longest

# run NAME SECONDS: seeds, where there are any, are read and not written.
run() {
  local home=build/fuzz corpora=("build/fuzz/corpus/$1")
  mkdir -p "${corpora[0]}" "$home/findings"
  if [ -d "tests/fuzz/seeds/$1" ]; then corpora+=("tests/fuzz/seeds/$1"); fi
  if "$home/tests/$1" -max_total_time="$2" -max_len="$(longest "$1")" -rss_limit_mb=2048 \
      -artifact_prefix="$home/findings/$1-" "${corpora[@]}" >"$home/$1.log" 2>&1; then
    echo "$1: $(tail -n 1 "$home/$1.log")"
  else
    tail -n 40 "$home/$1.log" >&2
    echo "$1: failed, see $home/$1.log and $home/findings/" >&2
    return 1
  fi
}
export -f run
printf '%s\n' "${fuzzers[@]}" | xargs -P "$(nproc)" -I{} bash -c "run {} $seconds"
