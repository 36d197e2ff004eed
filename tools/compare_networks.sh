#!/usr/bin/env bash
# Compares the engine with PyTorch on the default weights and on networks that are made here, with
# random weights: ResNet-20 with classic heads and padded shortcuts, ResNet-56, ResNet-50 (224x224),
# all with their exits.
#
#   tools/compare_networks.sh DATA [ISAS] [ALGORITHMS]
#
# DATA holds cifar-10-batches-bin. ISAS and ALGORITHMS are lists for compare_with_pytorch.py, such as
# avx2,sse2 and auto,im2col; all by default. ResNet-50 runs on the first 100 pictures, on the best
# instruction set, because PyTorch takes a second for five of them.

set -euo pipefail

if [ $# -lt 1 ] || [ $# -gt 3 ] || [ "$1" = -h ] || [ "$1" = --help ]; then
  sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
  [ "${1:-}" = -h ] || [ "${1:-}" = --help ] && exit 0
  exit 64
fi
data=$(realpath -e "$1")
isas=${2:-all}
algorithms=${3:-all}
cd "$(dirname "$0")/.."
python=python3
if [ -x /usr/bin/python3 ]; then python=/usr/bin/python3; fi  # the one Debian's PyTorch belongs to
models=build/models
mkdir -p "$models"

printf '%s\n' airplane automobile bird cat deer dog frog horse ship truck >"$models/classes.txt"
export_random() { "$python" tools/export_weights.py --classes "$models/classes.txt" "$@"; }
export_random --network resnet20 --heads classic --shortcut pad -o "$models/resnet20-classic.safetensors"
export_random --network resnet56 --heads strong -o "$models/resnet56b.safetensors"
export_random --network resnet50 -o "$models/resnet50b.safetensors"

compare() { "$python" tools/compare_with_pytorch.py "$@"; }
compare weights/resnet20b.safetensors "$data" --isa "$isas" --conv "$algorithms"
compare "$models/resnet20-classic.safetensors" "$data" --isa "$isas" --conv "$algorithms"
compare "$models/resnet56b.safetensors" "$data" --isa "$isas" --conv "$algorithms"
compare "$models/resnet50b.safetensors" "$data" --isa "${isas/all/best}" --conv "$algorithms" --limit 100
