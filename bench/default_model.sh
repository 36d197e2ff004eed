#!/usr/bin/env bash
# Measures weights/resnet20b.safetensors, draws the figures, and writes the tables of README.md and of its card. For
# when its weights or thresholds are others; tools/calibrate.py --report has then written exit-criteria-resnet20b.json.
#
#   bench/default_model.sh DATA [--containers [--no-build] [--engine DIR]]
#
# DATA is CIFAR-10's binary layout. Takes half an hour of a quiet machine with PyTorch (tools/setup.sh --tests) and a
# build (tools/test.sh); with --containers as long again, for the study over three containers and the links between them
# (options as for tools/docker_tests.sh). Beside other engines it is measured by bench/peers.py.

set -euo pipefail

. "$(dirname "$0")/../tests/containers/engine_options.sh"
if [ ! -d "${words[0]:-}" ] || [ "${words[1]:---containers}" != --containers ] || [ ${#words[@]} -gt 2 ]; then
  echo "default_model.sh: wanted a folder with the test pictures, and perhaps --containers (--help)" >&2
  exit 64
fi
data=$(realpath "${words[0]}")
cd "$(dirname "$0")/.."
model=weights/resnet20b.safetensors results=bench/results

begin=$SECONDS
say() { echo "$((SECONDS - begin)) s: $*" >&2; }
keep() {  # FILE COMMAND...: what it prints, once it is whole
  "${@:2}" >"build/kept.$$"
  mv "build/kept.$$" "$results/$1"
}

evaluate() { (repo=$PWD && cd "$data/.." && "$repo/build/release/offramp" eval --model "$repo/$model" --data "${data##*/}" "$@"); }

say "accuracy and time against the threshold"
keep eval-resnet20b.json evaluate --sweep --json
keep eval-resnet20b-batch32.json evaluate --sweep --json --batch 32
say "codecs"
$python bench/codecs.py "$data" --out $results/codecs-resnet20b.json >/dev/null
say "logits beside PyTorch's"
keep compare-resnet20b.txt $python tools/compare_with_pytorch.py $model "$data"
say "the study"
$python bench/study.py --data "$data" --out $results/study.json >/dev/null
if [ ${#words[@]} -eq 2 ]; then
  say "the study over three containers"
  tests/containers/have_engine.sh "${engine[@]}" -- \
    $python bench/study.py --data "$data" --settings containers --out $results/study.json >/dev/null
  say "three containers with links of 10 and 1 Mbit/s between them"
  tools/sweep_links.sh "${engine[@]}" --data "$data" --limit 100 --out $results/links.json \
    --figure $results/links.svg >/dev/null
fi
$python bench/tables.py
say "done"
