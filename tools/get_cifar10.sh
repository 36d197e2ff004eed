#!/bin/sh
# Fetches CIFAR-10 (binary version, 162 MB) into DIR, by default ./cifar10.
#
#     tools/get_cifar10.sh [DIR]
#
# Leaves DIR/cifar-10-batches-bin, which is what `offramp eval --data DIR` and tools/train.py read.
# Run again after an interruption, it goes on where the download stopped; when all is there, it
# does nothing. OFFRAMP_CIFAR10_URL names another place to fetch the same file from.
# Exit codes: 0 done, 64 usage, 65 wrong sum, 69 no network or program, 73 cannot write.
set -eu

url=${OFFRAMP_CIFAR10_URL:-https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz}
md5=c32a1d4ab5d03f1284b67883e8d87530
batch_bytes=30730000

stop() {
  code=$1
  shift
  echo "get_cifar10.sh: $*" >&2
  exit "$code"
}

has_batches() {
  for file in data_batch_1 data_batch_2 data_batch_3 data_batch_4 data_batch_5 test_batch; do
    [ -f "$1/$file.bin" ] && [ "$(wc -c <"$1/$file.bin")" -eq $batch_bytes ] || return 1
  done
}

has_sum() {
  [ -f "$1" ] && [ "$(md5sum <"$1" | cut -d ' ' -f 1)" = $md5 ]
}

# Goes on from what $1 holds already. Draws a bar on a terminal, leaves messages to the caller.
download() {
  if command -v curl >/dev/null; then
    if [ -t 2 ]; then progress=--progress-bar; else progress=--silent; fi
    curl --fail --location $progress --connect-timeout 20 --retry 3 --continue-at - \
      --output "$1" "$url"
  elif command -v wget >/dev/null; then
    if [ -t 2 ]; then progress=--show-progress; else progress=--quiet; fi
    wget --quiet $progress --timeout=20 --tries=3 --continue --output-document="$1" "$url"
  else
    stop 69 "wanted curl or wget to fetch $url, found neither"
  fi
}

[ $# -le 1 ] || stop 64 "wanted at most one argument, the folder; found $#"
case ${1:-} in
  -h | --help)
    sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"
    exit 0
    ;;
  -*) stop 64 "wanted a folder, found the option $1" ;;
esac

dir=${1:-cifar10}
batches=$dir/cifar-10-batches-bin
archive=$dir/cifar-10-binary.tar.gz

if has_batches "$batches"; then
  echo "$batches"
  exit 0
fi
mkdir -p "$dir" 2>/dev/null || stop 73 "$dir: cannot be created"
[ -w "$dir" ] || stop 73 "$dir: cannot be written"

# The sum is looked at first: a server answers a request for the rest of a whole file with an error.
if ! has_sum "$archive"; then
  resumed=no
  [ ! -s "$archive" ] || resumed=yes
  # What is there may be no beginning of the file, or the server may only send all of it.
  download "$archive" || { [ $resumed = yes ] && rm -f "$archive" && download "$archive"; } ||
    stop 69 "$url: cannot be fetched; without a network put cifar-10-binary.tar.gz into $dir"
fi
if ! has_sum "$archive"; then
  rm -f "$archive"
  stop 65 "$archive: wanted the md5 sum $md5, found another; removed, the next run begins anew"
fi

# Unpacked beside its place and moved there whole, so that an interruption leaves no half of it.
partial=$dir/.unpack.$$
trap 'rm -rf "$partial"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
mkdir "$partial" || stop 73 "$partial: cannot be created"
tar -xzf "$archive" -C "$partial" --no-same-owner || stop 73 "$archive: cannot be unpacked"
has_batches "$partial/cifar-10-batches-bin" ||
  stop 65 "$archive: wanted six files of $batch_bytes bytes in it, found others"
rm -rf "$batches"
mv "$partial/cifar-10-batches-bin" "$batches"
rm -f "$archive"
echo "$batches"
