#!/usr/bin/env python3
"""Latency and accuracy against the threshold, over shaped links between three containers.

    links.py [--data DIR] [--limit N] [--links NAME[,NAME...]] [--out FILE] [--figure FILE]
    links.py --draw FILE [--figure FILE]

Device, edge and cloud are containers of docker/compose.yaml with the links of
docker/compose.links.yaml between them: 10 Mbit/s and 20 ms to the edge, 400 Mbit/s and 40 ms to the
cloud, each way; and the same with 1 Mbit/s. Pictures go one at a time, the next when one is
answered. Each point is a run of its own with one threshold for both exits and a kind of hand-off:
the tensor as f32 or u8, the picture, or what is expected to be answered sooner.

Wants an engine that `docker` reaches, with the images of docker/Dockerfile; tools/sweep_links.sh
brings both. --data is CIFAR-10's binary layout; without it, pictures are drawn, and their labels
mean nothing. Exit codes: 0 done, 1 some were not answered, 64 option.
"""

import argparse
import csv
import json
import pathlib
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "containers"))

THRESHOLDS = (0, 0.05, 0.1, 0.2, 0.3, 0.5, 1)
LINKS = {
    "10 Mbit/s": {"OFFRAMP_DEVICE_LINK": "delay 20; rate 1250000"},
    "1 Mbit/s": {"OFFRAMP_DEVICE_LINK": "delay 20; rate 125000"},
}
CLOUD_LINK = {"OFFRAMP_CLOUD_LINK": "delay 40; rate 50000000"}
# What the device hands on, and what the edge does, which hands on tensors always.
KINDS = {
    "tensor, f32": ((), "f32"),
    "tensor, u8": (("--codec", "u8"), "u8"),
    "picture": (("--cut", "picture", "--codec", "u8"), "u8"),
    "auto": (("--cut", "auto", "--codec", "u8"), "u8"),
}
EXITS = 3
UNAVAILABLE = 69


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def labels(data, limit):
    """Of the test pictures: a byte before each 3072."""
    file = next(data.rglob("test_batch.bin"))
    return list(file.read_bytes()[:: 1 + 3 * 32 * 32][:limit])


def device(fleet, limit, threshold, more):
    command = fleet.device_command(f"{fleet.project}-device", "device-link:5555",
                                   ["--limit", limit, "--window", "1", "--deadline", "20s",
                                    "--thresholds", threshold, "--json", "--history",
                                    "/out/sweep.csv", *more])
    return subprocess.run([str(word) for word in command], capture_output=True, text=True,
                          env=fleet.environment, stdin=subprocess.DEVNULL)


def measure(fleet, threshold, kind, limit, truth):
    """One point: a run of `limit` pictures, one at a time."""
    more, _ = KINDS[kind]
    device(fleet, 1, 0, more)  # the containers' first picture
    done = device(fleet, limit, threshold, more)
    if done.returncode not in (0, UNAVAILABLE):
        raise SystemExit(f"links.py: {done.stderr.strip()[-300:]}")
    with open(fleet.out / "sweep.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["event"] != "begun"]
    bad = [row for row in rows if row["status"] != "ok"]
    if bad or len(rows) != limit:
        raise SystemExit(f"links.py: wanted {limit} answers of the cascade, found {len(rows)}, of "
                         f"which {len(bad)} are not: {sorted({row['status'] for row in bad})} for "
                         f"{', '.join(row['picture'] for row in bad)}")
    times = [int(row["total_us"]) / 1000 for row in rows]
    exits = [sum(int(row["exit"]) == taken for row in rows) / limit for taken in range(EXITS)]
    right = sum(int(row["label"]) == truth[int(row["picture"])] for row in rows)
    return {"threshold": threshold, "pictures": limit, "accuracy": right / limit,
            "exits": [round(share, 4) for share in exits],
            "mean_ms": round(statistics.mean(times), 2),
            "p50_ms": round(percentile(times, 0.5), 2), "p99_ms": round(percentile(times, 0.99), 2)}


def sweep(options):
    from fleet import Fleet

    found = []
    for link in options.links:
        with Fleet("compose.links.yaml", environment={**LINKS[link], **CLOUD_LINK},
                   data=options.data) as fleet:
            truth = labels(fleet.data, options.limit)
            for threshold in THRESHOLDS:
                for kind, (_, codec) in KINDS.items():
                    fleet.configure(threshold, edge={"OFFRAMP_NODE_CODEC": codec},
                                    everywhere={})
                    fleet.up("cloud", "cloud-link", "edge", "device-link")
                    point = measure(fleet, threshold, kind, options.limit, truth)
                    found.append({"link": link, "kind": kind, **point})
                    print(f"{link}, T = {threshold:g}, {kind}: {point['mean_ms']:.1f} ms, p99 "
                          f"{point['p99_ms']:.1f}, {point['accuracy']:.1%}", file=sys.stderr,
                          flush=True)
    return {"links": LINKS, "cloud_link": CLOUD_LINK["OFFRAMP_CLOUD_LINK"],
            "pictures": "CIFAR-10" if options.data else "drawn", "points": found}


def draw(report, path):
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "links", "font.size": 9, "axes.spines.top": False,
                                "axes.spines.right": False,
                                "svg.fonttype": "none"})
    from matplotlib import pyplot
    from matplotlib.ticker import FixedLocator, NullLocator

    links = [name for name in LINKS if any(one["link"] == name for one in report["points"])]
    figure, grid = pyplot.subplots(2, len(links), figsize=(4.6 * len(links), 6.4), squeeze=False,
                                   sharex=True, gridspec_kw={"height_ratios": (3, 1)})
    colours = dict(zip(KINDS, ("#4c6a92", "#d1743c", "#4f8f5b", "#8a5a9e")))
    for axes, below, link in zip(grid[0], grid[1], links):
        for kind in KINDS:
            points = [one for one in report["points"] if (one["link"], one["kind"]) == (link, kind)]
            if not points:
                continue
            steps = range(len(points))
            for what, style, width in (("mean_ms", "-", 1.8), ("p50_ms", ":", 1.2),
                                       ("p99_ms", "--", 0.9)):
                axes.plot(steps, [one[what] for one in points], style, color=colours[kind],
                          linewidth=width, marker="o" if what == "mean_ms" else None, markersize=3,
                          label=kind if what == "mean_ms" else None)
            below.plot(steps, [100 * one["accuracy"] for one in points], color=colours[kind],
                       linewidth=1.2, marker="o", markersize=3)
            names = [f"{one['threshold']:g}" for one in points]
        axes.set_yscale("log")
        axes.set_ylim(0.2, 1500)
        axes.yaxis.set_major_locator(FixedLocator([0.3, 1, 3, 10, 30, 100, 300, 1000]))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_title(f"{link}, 20 ms to the edge", fontsize=10)
        axes.grid(axis="y", linewidth=0.4, alpha=0.5)
        below.grid(axis="y", linewidth=0.4, alpha=0.5)
        below.set_xticks(range(len(names)), names)
        below.set_xlabel("threshold of both exits")
    grid[0][0].set_ylabel("ms a picture")
    grid[1][0].set_ylabel("accuracy, %")
    shared = [one["accuracy"] * 100 for one in report["points"]]
    for below in grid[1]:
        below.set_ylim(min(shared) - 2, max(shared) + 2)
    grid[0][0].legend(frameon=False, fontsize=8, loc="lower left")
    grid[0][-1].plot([], [], "-", color="grey", label="mean")
    grid[0][-1].plot([], [], ":", color="grey", label="p50")
    grid[0][-1].plot([], [], "--", color="grey", label="p99")
    handles = grid[0][-1].get_legend_handles_labels()
    grid[0][-1].legend(handles[0][-3:], handles[1][-3:], frameon=False, fontsize=8,
                       loc="lower left")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None, "Creator": None})


def markdown(report):
    lines = ["| link | handed on | T | accuracy | exits 1, 2, 3 | mean | p50 | p99 |",
             "|---|---|---|---|---|---|---|---|"]
    for one in report["points"]:
        exits = " / ".join(f"{100 * share:.0f}" for share in one["exits"])
        lines.append(f"| {one['link']} | {one['kind']} | {one['threshold']:g} | "
                     f"{100 * one['accuracy']:.1f} % | {exits} % | {one['mean_ms']:.1f} ms | "
                     f"{one['p50_ms']:.1f} | {one['p99_ms']:.1f} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path)
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--links", default=",".join(LINKS))
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "build" / "links.json")
    parser.add_argument("--figure", type=pathlib.Path, default=ROOT / "build" / "links.svg")
    parser.add_argument("--draw", type=pathlib.Path)
    try:
        options = parser.parse_args()
    except SystemExit as error:
        return 64 if error.code else 0
    options.links = options.links.split(",")
    if unknown := [name for name in options.links if name not in LINKS]:
        print(f"links.py: --links: wanted some of {', '.join(LINKS)}, found {unknown[0]!r}",
              file=sys.stderr)
        return 64
    if options.draw:
        report = json.loads(options.draw.read_text())
    else:
        report = sweep(options)
        options.out.write_text(json.dumps(report, indent=1) + "\n")
    draw(report, options.figure)
    print(markdown(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
