#!/usr/bin/env python3
"""What bench/peers.py says about its measurements: ratios, the machine, Markdown tables.

    peers_report.py PEERS.json...      one short table of what was kept, as in README.md

Exit codes: 0 done, 64 no file named, 65 not such a file.
"""

import json
import os
import pathlib
import platform
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
OURS = "offramp"
TITLES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "mnn": "MNN", "litert": "LiteRT",
          "torch": "PyTorch"}
BASELINE = "python"  # the Python and numpy around each peer, alone
CPU_FLAGS = ("sse4_2", "avx", "fma", "avx2", "avx512", "avx_vnni", "amx", "asimd", "sve")


def compare(engines):
    """The best peer, and its time over ours, by medians and by minima."""
    peers = [name for name in engines if name != OURS]
    if OURS not in engines or not peers:
        return {}
    best = min(peers, key=lambda name: engines[name]["median_ms"])
    fastest = min(engines[name]["min_ms"] for name in peers)
    return {
        "best_peer": best,
        "ratio_of_medians": engines[best]["median_ms"] / engines[OURS]["median_ms"],
        "ratio_of_minima": fastest / engines[OURS]["min_ms"],
    }


def git(*arguments):
    result = subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True)
    return result.stdout.strip() if result.returncode == 0 else ""


def machine():
    """CPU model and instruction sets."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        fields = dict(
            [part.strip() for part in line.split(":", 1)] for line in file if ":" in line
        )
    flags = fields.get("flags", fields.get("Features", "")).split()
    return {
        "cpu": fields.get("model name", platform.machine()),
        "instruction_sets": [flag for flag in flags if flag.startswith(CPU_FLAGS)],
        "cores": os.cpu_count(),
        "kernel": platform.release(),
    }


def cell(engines, name):
    if name not in engines:
        return "-"
    return f"{engines[name]['median_ms']:.3g} ({engines[name]['min_ms']:.3g})"


def table(head, rows):
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def markdown(result):
    versions = result["versions"]
    names = [OURS, *(name for name in versions if name != OURS)]
    titles = [OURS, *(f"{name} {versions[name]}" for name in names[1:])]
    timings = []
    for row in result["timings"]:
        best = row.get("best_peer")
        ratio = f"{row['ratio_of_medians']:.2f} ({best})" if best else "-"
        cells = [cell(row["engines"], name) for name in names]
        timings.append([row["network"], row["batch"], row["threads"], *cells, ratio])
    head = ["network", "batch", "threads", *titles, "best peer / ours"]
    worst = max(
        (found["disagreement"] for row in result["timings"] for found in row["engines"].values()),
        default=0,
    )
    parts = [
        f"{result['cpu']}, commit {result['commit'][:10]}, {result['date'][:10]}. Milliseconds for "
        "the whole batch, median (minimum); logits agree with PyTorch's within "
        f"{worst:.1g} of the largest.",
        table(head, timings),
    ]
    rows = []
    for row in result["footprints"]:
        cells = [
            f"{found['start_ms']:.0f} / {found['peak_kib'] / 1024:.0f}"
            if (found := row["engines"].get(name))
            else "-"
            for name in [*names, BASELINE]
        ]
        rows.append([row["network"], *cells])
    parts += [
        "Process start to first answer in ms / peak of the resident memory in MiB; batch 1, "
        "1 thread. Peers run inside Python with numpy, which needs the last column by itself.",
        table(["network", *titles, BASELINE], rows),
    ]
    return "\n\n".join(parts)


def short(results):
    """Best peer's median over ours, one line for each network, of one or more results."""
    rows = {}
    for result in results:
        for timing in result["timings"]:
            rows.setdefault(timing["network"], {})[timing["batch"], timing["threads"]] = timing
    settings = sorted({key for row in rows.values() for key in row}, key=lambda k: (k[1], k[0]))

    def entry(timing):
        if timing is None or "ratio_of_medians" not in timing:
            return "-"
        best = TITLES.get(timing["best_peer"], timing["best_peer"])
        ours = timing["engines"][OURS]["median_ms"]
        ours = f"{ours:.3g}" if ours < 100 else f"{ours:.0f}"
        return f"**{timing['ratio_of_medians']:.2f}** {ours} ms, {best}"

    head = ["network", *(f"batch {b}, {t} thread{'s' * (t > 1)}" for b, t in settings)]
    body = [[name, *(entry(row.get(key)) for key in settings)] for name, row in rows.items()]
    return table(head, body)


def main(paths):
    if not paths or paths[0].startswith("-"):
        print(__doc__.strip(), file=sys.stderr)
        return 64
    results = []
    for path in paths:
        try:
            results.append(json.loads(pathlib.Path(path).read_text(encoding="utf-8")))
            results[-1]["timings"][0]["network"]
        except (OSError, ValueError, LookupError, TypeError) as error:
            print(f"peers_report: {path}: wanted JSON of peers.py, found {error!r}",
                  file=sys.stderr)
            return 65
    print(short(results))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
