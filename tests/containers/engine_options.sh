# Read by scripts of tools/ that want an engine, before they go anywhere: --engine DIR is from where
# the caller stands. Sorts "$@" into `engine`, what have_engine.sh takes, and `words`, the rest;
# `python` is what runs them. --help prints the first comment of the script.

engine=() words=()
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help) sed -n '2,/^$/s/^# \{0,1\}//p' "$0"; exit 0 ;;
    --no-build) engine+=("$1") ;;
    --engine)
      [ $# -gt 1 ] || { echo "$(basename "$0"): --engine: wanted a folder, found nothing" >&2; exit 64; }
      engine+=("$1" "$(realpath -m "$2")")
      shift ;;
    *) words+=("$1") ;;
  esac
  shift
done
python=/usr/bin/python3
[ -x "$python" ] || python=python3
