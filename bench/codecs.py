#!/usr/bin/env python3
"""What each codec costs in accuracy, and what it saves on the wire, on a labelled data set.

    codecs.py DATA [--model FILE] [--limit N] [--out FILE]

Runs `offramp eval` over a simulated wire once for each codec, with and without LZ4, and once
without a wire. DATA is as for eval. Bytes are those of both frames of a message, a mean over the
pictures that cross at that cut with the model's own thresholds. Results: JSON in --out, a Markdown
table on standard output. Exit codes: 0 done, 64 option, 69 no build, otherwise eval's.
"""

import argparse
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
BINARY = ROOT / "build" / "release" / "offramp"
CODECS = ("f32", "f16", "u8", "u8c")
# What holds on every machine; times do not belong here.
KEPT = ("codec", "accuracy", "exits", "mean_macs", "cuts")


def evaluate(arguments, options):
    command = [BINARY, "eval", "--json", "--data", arguments.data, *options]
    if arguments.model:
        command += ["--model", arguments.model]
    if arguments.limit:
        command += ["--limit", str(arguments.limit)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.stderr.write(done.stderr)
        sys.exit(done.returncode)
    return json.loads(done.stdout)


def markdown(report):
    cuts = report["codecs"][0]["cuts"]
    head = [f"bytes at cut {cut['cut']}, {cut['shape']}" for cut in cuts]
    lines = ["| codec | " + " | ".join(head) + " | accuracy | last exit on all |"]
    lines.append("|---" * (len(cuts) + 3) + "|")
    for one in report["codecs"]:
        cells = [one["codec"], *(f"{cut['mean_bytes']:,.0f}" for cut in one["cuts"])]
        cells.append(f"{100 * one['accuracy']:.2f} %")
        cells.append(f"{100 * one['exits'][-1]['accuracy']:.2f} %")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--model")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "build" / "codecs.json")
    try:
        arguments = parser.parse_args()
    except SystemExit as error:
        return 64 if error.code else 0
    if not BINARY.exists():
        print(f"codecs: wanted the program, found none at {BINARY}", file=sys.stderr)
        return 69
    plain = evaluate(arguments, [])
    report = {key: plain[key] for key in ("model", "id", "samples", "thresholds", "isa", "accuracy")}
    report["codecs"] = []
    for codec in CODECS:
        for packing in ([], ["--lz4"]):
            found = evaluate(arguments, ["--codec", codec, *packing])
            report["codecs"].append({key: found[key] for key in KEPT})
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=2) + "\n")
    print(markdown(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
