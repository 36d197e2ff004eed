#!/usr/bin/env python3
"""Makes tables of what kernels_bench measured: our fastest kernel for each layer, beside OpenBLAS.

    build/release/bench/kernels_bench --benchmark_out=kernels.json --benchmark_min_time=0.1 \\
        bench/shapes/*.txt
    bench/kernels_report.py kernels.json [ISA]       Markdown; ISA: avx512, avx2, ...; default: best

A speed counts the multiply-accumulates of the direct sum, two operations each, so that Winograd can
exceed the peak. Exit codes: 0 done, 1 a kernel was wrong, 64 usage, 65 not such a file.
"""

import collections
import json
import pathlib
import sys

ISAS = ("avx512", "avx2", "neon", "sse2", "scalar")  # best first


def load(path):
    """{name: entry}, names without benchmark's suffixes; and what was wrong."""
    try:
        entries = json.loads(pathlib.Path(path).read_text())["benchmarks"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"kernels_report: {path}: wanted JSON of kernels_bench, found {error!r}",
              file=sys.stderr)
        sys.exit(65)
    results, wrong = {}, []
    for entry in entries:
        if entry.get("error_occurred"):
            wrong.append(f"{entry['name']}: {entry['error_message']}")
        elif entry.get("run_type") == "iteration":
            results[entry["name"].split("/iterations:")[0]] = entry
    return results, wrong


def microseconds(entry):
    scale = {"ns": 1e-3, "us": 1.0, "ms": 1e3, "s": 1e6}[entry["time_unit"]]
    return entry["cpu_time"] * scale


def layers(results, isa):
    """{network: [(shape, path, entry of ours, entry of OpenBLAS or None)]}"""
    ours, blas = collections.defaultdict(dict), {}
    for name, entry in results.items():
        kind, *rest = name.split("/")
        if kind == "conv" and rest[2] == "openblas":
            blas[tuple(rest[:2])] = entry
        elif kind == "conv" and rest[2] == isa:
            ours[tuple(rest[:2])][rest[3]] = entry
    networks = collections.defaultdict(list)
    for (network, shape), paths in ours.items():
        path = min(paths, key=lambda p: microseconds(paths[p]))
        networks[network].append((shape, path, paths[path], blas.get((network, shape))))
    return networks


def row(*cells):
    print("| " + " | ".join(cells) + " |")


def report(results, isa):
    peak = results.get(f"peak/{isa}", {}).get("FLOP/s")
    if peak:
        print(f"{isa}: {peak / 1e9:.1f} GFLOP/s at most on one core.\n")
    row("layer", "fastest", "us", "GFLOP/s", "of peak", "OpenBLAS / ours")
    row("---", "---", "---:", "---:", "---:", "---:")

    def line(title, path, ours, blas):
        ratio = microseconds(blas) / microseconds(ours) if blas else None
        row(title, path, f"{microseconds(ours):.1f}", f"{ours['FLOP/s'] / 1e9:.1f}",
            f"{100 * ours['of_peak']:.0f} %", f"{ratio:.2f}" if ratio else "")
        return ratio

    slowest = []
    for network, rows in layers(results, isa).items():
        for shape, path, ours, blas in rows:
            title = f"{network} {shape.replace('_', ' ')}"
            slowest.append((line(title, path, ours, blas), title))
    for name in sorted((n for n in results if n.startswith("gemm/") and n.endswith(f"/{isa}")),
                       key=lambda n: results[n]["FLOP/s"] / 1e12 + int(n.split("/")[1].split("x")[0])):
        size = name.split("/")[1]
        slowest.append((line(f"matrix product {size}", "", results[name],
                             results.get(f"gemm/{size}/openblas")), size))
    slowest = [(ratio, title) for ratio, title in slowest if ratio]
    if slowest:
        ratio, title = min(slowest)
        print(f"\nLeast against OpenBLAS: {ratio:.2f} ({title}), of {len(slowest)}.")


def main(arguments):
    if not 1 <= len(arguments) <= 2 or arguments[0].startswith("-"):
        print(__doc__.strip(), file=sys.stderr)
        sys.exit(64)
    results, wrong = load(arguments[0])
    present = [isa for isa in ISAS if any(f"/{isa}" in name for name in results)]
    if not present or (len(arguments) == 2 and arguments[1] not in present):
        print(f"kernels_report: wanted an ISA that was measured ({', '.join(present)})",
              file=sys.stderr)
        sys.exit(64 if present else 65)
    report(results, arguments[1] if len(arguments) == 2 else present[0])
    for text in wrong:
        print(f"kernels_report: {text}", file=sys.stderr)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main(sys.argv[1:])
