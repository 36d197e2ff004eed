"""What bench/peers.py says about its measurements: ratios, the machine, Markdown tables."""

import os
import pathlib
import platform
import subprocess

ROOT = pathlib.Path(__file__).resolve().parent.parent
OURS = "offramp"
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
