#!/usr/bin/env python3
"""The study: accuracy and time against one threshold T for both exits, in one process, over three
nodes and over three containers; what the exits are worth; and how far they can be believed.

    study.py --data DIR [--settings NAME[,NAME...]] [--limit N] [--model FILE] [--out FILE]
    study.py --draw FILE

DIR is CIFAR-10's binary layout, of which the test pictures are used, one at a time. Settings:
process (offramp eval), nodes (device, edge and cloud as processes on loopback, links encrypted) and
containers (docker/compose.yaml; wants an engine that `docker` reaches, with the images: run it as
tests/containers/have_engine.sh -- /usr/bin/python3 bench/study.py ...). JSON goes to --out (by
default build/study.json), where settings that were not run keep what stands there; the figures
study, frontier and reliability beside it, as SVG and PNG; a Markdown table to standard output. Exit
codes: 0 done, 64 option, 69 no build, otherwise that of what failed.
"""

import argparse
import json
import math
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
sys.path.insert(0, str(ROOT / "tests"))
import cifar10  # noqa: E402
from exit_statistics import calibration_error, softmax  # noqa: E402
from scene import BINARY, MODEL, Failed, Node, make_keys  # noqa: E402

NATS = math.log(10)  # of T: the entropy of not knowing anything
# Those of the prototype, and where ours change.
THRESHOLDS = (0, 1e-8, 1e-6, 1e-4, 1e-3, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, NATS)
SETTINGS = ("process", "nodes", "containers")
BINS = 10
REPEATS = 3  # of each point; its times are the medians

# What others have published, each on pictures and machines of its own, so that only shares and
# differences compare. The prototype: Python and Keras in three containers, T in nats.
PROTOTYPE = {
    "threshold": [0, 1e-15, 1e-10, 1e-8, 1e-6, 1e-4, 0.01, 0.1, 1],
    "accuracy": [79.3, 78.2, 76.2, 74.9, 72.7, 69.6, 65.3, 62.7, 58.4],
    "ms": [6.14, 4.64, 4.08, 3.80, 3.45, 3.10, 2.60, 2.30, 1.85],
    "left_device": [100, 74.8, 60.3, 52.8, 43.4, 32.4, 19.3, 12.1, 0.1],
}
# In percent; None is what they do not say. `right` is of the pictures that the first exit answers,
# `time` what the cascade takes of the whole network's; BranchyNet's leaves the branch heads out.
PUBLISHED = [
    {"name": "B-AlexNet (BranchyNet, 2016)", "exits": None, "right": None,
     "whole": 78.38, "cascade": 79.19, "time": 100 / 1.5},
    {"name": "B-ResNet-110 (BranchyNet, 2016)", "exits": (41.5, 13.8, 44.7), "right": None,
     "whole": 80.70, "cascade": 79.17, "time": 100 / 1.9},
    {"name": "ResNet-20 (PORTEND, 2023), T = 0.1", "exits": (27.0, 40.6, 32.4), "right": 96.0,
     "whole": 88.3, "cascade": None, "time": None},
]


def offramp(*words):
    command = [str(word) for word in (BINARY, *words)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise Failed(f"offramp {words[0]}: {done.stderr.strip() or 'no word'}", done.returncode)
    return done.stdout


# ---- measuring ----


def rule(threshold):
    """T as the program takes it: normalised by ln 10, one for both exits."""
    return ["--thresholds", f"{min(1.0, threshold / NATS):.9g}"]


def of_eval(options, threshold):
    command = ["eval", "--json", "--model", options.model, "--data", options.data,
               *rule(threshold), *options.limited]
    said = [json.loads(offramp(*command)) for _ in range(REPEATS)]
    return [
        {
            "accuracy": one["accuracy"],
            "exits": [exit["share"] for exit in one["exits"]],
            "mean_ms": one["latency_ms"]["mean"],
            "mean_macs": one["mean_macs"],
        }
        for one in said
    ]


def of_run(said):
    """A point out of what `offramp run --data --json` says; Failed when an answer was not whole."""
    if said["degraded"] or said["unanswered"]:
        raise Failed(f"run: wanted the whole cascade's answers, found {said['degraded']} degraded")
    tiers = ("device", "edge", "cloud")
    shares = dict.fromkeys(tiers, 0.0)
    for group in said["groups"]:
        shares[group["answered_by"].partition("/")[0]] += group["share"]
    return {
        "accuracy": said["accuracy"],
        "exits": [shares[tier] for tier in tiers],
        "mean_ms": said["total_ms"]["mean"],
        "p99_ms": said["total_ms"]["p99"],
        "mean_macs": said["mean_macs"],
        "sent_bytes": said["sent_bytes"] / said["pictures"],
    }


RUN = ["--window", "1", "--deadline", "20s", "--json"]


def of_nodes(options, threshold):
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        make_keys(folder)
        own = {"more": ["--quiet", *rule(threshold)], "model": options.model}
        with Node(folder, "cloud", **own) as cloud, Node(folder, "edge", cloud, **own) as edge:
            device = ["run", "--model", options.model, "--data", options.data, "--next",
                      edge.address, "--keys", folder / "keys" / "device", "--wait", "30s",
                      *rule(threshold), *RUN]
            offramp(*device, "--limit", "50")  # connections and caches
            return [of_run(json.loads(offramp(*device, *options.limited)))
                    for _ in range(REPEATS)]


def of_containers(fleet, options, threshold):
    """Each tier with one core, as the prototype's had."""
    normalised = rule(threshold)[1]
    fleet.configure(normalised, everywhere={})
    fleet.up("cloud", "edge")

    def device(*more):
        command = fleet.device_command(
            f"{fleet.project}-device", "edge:5555", ["--thresholds", normalised, *RUN, *more])
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True,
                              env=fleet.environment, stdin=subprocess.DEVNULL)
        if done.returncode != 0:
            raise Failed(f"device: {done.stderr.strip()[-300:]}", done.returncode)
        return json.loads(done.stdout)

    device("--limit", "50")
    return [of_run(device(*options.limited)) for _ in range(REPEATS)]


def reliability(options):
    """For each exit: how often it is right when it says so many percent, in bins of equal
    width."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "logits"
        said = json.loads(
            offramp("eval", "--json", "--model", options.model, "--data", options.data,
                    "--thresholds", "0", "--logits", path, *options.limited))
        logits = np.fromfile(path, "<f4").reshape(said["samples"], len(said["exits"]), -1)
    _, labels = cifar10.read(cifar10.locate(options.data) / cifar10.TEST_FILE)
    labels = labels[: len(logits)]
    exits = []
    for index, exit in enumerate(said["exits"]):
        probabilities = softmax(logits[:, index], said["temperatures"][index])
        confidence = probabilities.max(axis=1)
        right = probabilities.argmax(axis=1) == labels
        where = np.minimum((confidence * BINS).astype(int), BINS - 1)
        bins = [
            {
                "pictures": int((where == one).sum()),
                "confidence": float(confidence[where == one].mean()),
                "accuracy": float(right[where == one].mean()),
            }
            for one in range(BINS)
            if (where == one).any()
        ]
        exits.append({
            "name": exit["name"],
            "accuracy": float(right.mean()),
            "calibration_error": calibration_error(probabilities, labels),
            "bins": bins,
        })
    return exits


def processor():
    """Its model's name and how many there are."""
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.machine()


def measure(options, report):
    points = report.setdefault("points", {})
    for setting in options.settings:
        points[setting] = []

        def keep(threshold, tries):
            point = tries[0]
            for name in (one for one in point if one.endswith("_ms")):
                point[name] = statistics.median(each[name] for each in tries)
            points[setting].append({"threshold": threshold, **point})
            print(f"{setting}, T = {threshold:.3g}: {point['accuracy']:.2%}, "
                  f"{point['mean_ms']:.3f} ms", file=sys.stderr, flush=True)

        if setting == "containers":
            sys.path.insert(0, str(ROOT / "tests" / "containers"))
            from fleet import Fleet

            with Fleet(data=options.data) as fleet:
                for threshold in THRESHOLDS:
                    keep(threshold, of_containers(fleet, options, threshold))
        else:
            of = of_eval if setting == "process" else of_nodes
            for threshold in THRESHOLDS:
                keep(threshold, of(options, threshold))
    if "process" in options.settings:
        said = json.loads(offramp("inspect", "--json", options.model))
        head = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"],
                              capture_output=True, text=True).stdout.strip()
        report.update({"commit": head, "processor": processor(), "model": said["name"], "id": said["id"][:16],
                       "pictures": options.limit or 10000, "reliability": reliability(options)})
    return report


# ---- showing ----

COLOURS = {"process": "#4c6a92", "nodes": "#d1743c", "containers": "#4f8f5b"}
NAMES = {"process": "one process", "nodes": "three nodes", "containers": "three containers"}
EXIT_COLOURS = ("#0072b2", "#d55e00", "#009e73")


def prepare():
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.hashsalt": "study", "svg.fonttype": "none", "font.size": 9,
                                "axes.spines.top": False})
    from matplotlib import pyplot

    return pyplot


def save(figure, folder, name):
    figure.tight_layout()
    figure.savefig(folder / f"{name}.svg", metadata={"Date": None, "Creator": None})
    figure.savefig(folder / f"{name}.png", dpi=110, metadata={"Software": None})


def two_axes(axes, title, thresholds, accuracy, times, ms_limit):
    """Accuracy on the left, milliseconds on the right, both against T: the prototype's figure."""
    steps = range(len(thresholds))
    axes.plot(steps, accuracy, color="black", marker="s", markersize=3, linewidth=1.4,
              label="accuracy")
    right = axes.twinx()
    for name, values in times.items():
        right.plot(steps, values, color=COLOURS.get(name, "#8a5a9e"), marker="o", markersize=3,
                   linewidth=1.4, label=f"ms, {NAMES.get(name, name)}")
    axes.set_xticks(steps, [f"{t:.3g}" for t in thresholds], rotation=60)
    axes.set_ylim(50, 95)
    right.set_ylim(0, ms_limit)
    axes.set_ylabel("accuracy, %")
    right.set_ylabel("ms a picture")
    axes.set_xlabel("T, nats")
    axes.set_title(title, fontsize=10, loc="left")
    axes.grid(axis="y", linewidth=0.4, alpha=0.5)
    lines = [*axes.get_lines(), *right.get_lines()]
    axes.legend(lines, [line.get_label() for line in lines], frameon=False, fontsize=8,
                loc="center right")


def draw_study(report, folder, pyplot):
    points = report["points"]
    first = points["process"]
    thresholds = [one["threshold"] for one in first]
    figure, grid = pyplot.subplots(2, 2, figsize=(11, 8.4))
    times = {name: [one["mean_ms"] for one in points[name]] for name in SETTINGS if name in points}
    limit = 1.15 * max(max(PROTOTYPE["ms"]), *(max(values) for values in times.values()))
    two_axes(grid[0][0], "the prototype (Keras, three containers)", PROTOTYPE["threshold"],
             PROTOTYPE["accuracy"], {"prototype": PROTOTYPE["ms"]}, limit)
    two_axes(grid[0][1], f"offramp, {report['model']}", thresholds,
             [100 * one["accuracy"] for one in first], times, limit)
    steps = range(len(thresholds))
    shares, below = grid[1][0], np.zeros(len(first))
    for exit, (tier, colour) in enumerate(zip(("device", "edge", "cloud"), EXIT_COLOURS)):
        values = np.array([100 * one["exits"][exit] for one in first])
        shares.bar(steps, values, bottom=below, color=colour, label=f"{tier} answers", width=0.8)
        below += values
    shares.set_ylabel("pictures, %")
    shares.legend(fontsize=8, loc="upper left", facecolor="white", framealpha=0.9, edgecolor="none")
    costs = grid[1][1]
    costs.plot(steps, [one["mean_macs"] / 1e6 for one in first], color="black", marker="s",
               markersize=3, label="million MACs a picture")
    costs.set_ylim(0, None)
    costs.set_ylabel("million MACs")
    lines = costs.get_lines()
    sending = points.get("nodes") or points.get("containers")
    if sending:
        right = costs.twinx()
        right.plot(steps, [one["sent_bytes"] / 1024 for one in sending], color=COLOURS["nodes"],
                   marker="o", markersize=3, label="KiB sent a picture, on all links, f32")
        right.set_ylim(0, None)
        right.set_ylabel("KiB")
        lines = [*lines, *right.get_lines()]
    costs.legend(lines, [line.get_label() for line in lines], frameon=False, fontsize=8,
                 loc="lower left")
    for axes in grid[1]:
        axes.set_xticks(steps, [f"{t:.3g}" for t in thresholds], rotation=60)
        axes.set_xlabel("T, nats")
        axes.grid(axis="y", linewidth=0.4, alpha=0.5)
        axes.set_axisbelow(True)
    save(figure, folder, "study")


def draw_frontier(report, folder, pyplot):
    figure, axes = pyplot.subplots(figsize=(6.4, 4.4))
    axes.spines["right"].set_visible(False)
    whole = report["points"]["process"][0]
    for name in SETTINGS:
        points = report["points"].get(name)
        if not points:
            continue
        axes.plot([one["mean_ms"] / points[0]["mean_ms"] for one in points],
                  [100 * (one["accuracy"] - whole["accuracy"]) for one in points],
                  color=COLOURS[name], marker="o", markersize=3, label=f"time, {NAMES[name]}")
    points = report["points"]["process"]
    axes.plot([one["mean_macs"] / whole["mean_macs"] for one in points],
              [100 * (one["accuracy"] - whole["accuracy"]) for one in points],
              color="black", marker="s", markersize=3, label="MACs")
    axes.plot([ms / PROTOTYPE["ms"][0] for ms in PROTOTYPE["ms"]],
              [one - PROTOTYPE["accuracy"][0] for one in PROTOTYPE["accuracy"]], "--",
              color="#8a5a9e", marker="x", markersize=4, label="time, the prototype")
    placed = [one for one in PUBLISHED if one["cascade"] and one["time"]]
    for one, marker in zip(placed, "^v"):
        axes.plot([one["time"] / 100], [one["cascade"] - one["whole"]], marker, color="grey",
                  markersize=7, label=f"time, {one['name']}")
    axes.set_xlabel("share of what the whole network takes")
    axes.set_ylabel("points of accuracy against the whole network")
    axes.set_xlim(0.2, 1.05)
    axes.grid(linewidth=0.4, alpha=0.5)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    save(figure, folder, "frontier")


def draw_reliability(report, folder, pyplot):
    exits = report["reliability"]
    figure, grid = pyplot.subplots(1, len(exits), figsize=(3.6 * len(exits), 3.8), sharey=True)
    for axes, exit, colour in zip(grid, exits, EXIT_COLOURS):
        axes.spines["right"].set_visible(False)
        edge = 1 / BINS
        for one in exit["bins"]:
            left = min(BINS - 1, int(one["confidence"] * BINS)) * edge
            axes.bar(left, one["accuracy"], width=edge, align="edge", color=colour, alpha=0.75,
                     edgecolor="white")
            axes.text(left + edge / 2, 0.02, f"{one['pictures']}", ha="center", fontsize=6,
                      rotation=90, color="white")
        axes.plot([0, 1], [0, 1], color="black", linewidth=0.8)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_title(f"{exit['name']}: {exit['accuracy']:.2%} right,\n"
                       f"calibration error {exit['calibration_error']:.2%}", fontsize=9)
        axes.set_xlabel("probability that it gives")
    grid[0].set_ylabel("share that is right")
    save(figure, folder, "reliability")


def draw(report, folder):
    if "process" not in report.get("points", {}):
        raise Failed("wanted the setting 'process' in the report, found none", 64)
    pyplot = prepare()
    draw_study(report, folder, pyplot)
    draw_frontier(report, folder, pyplot)
    draw_reliability(report, folder, pyplot)


def markdown(report):
    points = report["points"]
    settings = [name for name in SETTINGS if name in points]
    lines = ["| T, nats | accuracy | device / edge / cloud answer | MACs | "
             + " | ".join(f"ms, {NAMES[name]}" for name in settings) + " | KiB sent |",
             "|---|---|---|---|" + "---|" * (len(settings) + 1)]
    whole = points["process"][0]["mean_macs"]
    sending = points.get("nodes") or points.get("containers")
    for index, one in enumerate(points["process"]):
        exits = " / ".join(f"{100 * share:.1f}" for share in one["exits"])
        times = " | ".join(f"{points[name][index]['mean_ms']:.2f}" for name in settings)
        sent = f"{sending[index]['sent_bytes'] / 1024:.1f}" if sending else "-"
        lines.append(f"| {one['threshold']:.3g} | {100 * one['accuracy']:.2f} % | {exits} % | "
                     f"{100 * one['mean_macs'] / whole:.1f} % | {times} | {sent} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path)
    parser.add_argument("--settings", default="process,nodes")
    parser.add_argument("--limit", type=int, default=0)
    parser.add_argument("--model", default=str(MODEL))
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "build" / "study.json")
    parser.add_argument("--draw", type=pathlib.Path)
    try:
        options = parser.parse_args()
    except SystemExit as error:
        return 64 if error.code else 0
    options.settings = options.settings.split(",")
    unknown = [name for name in options.settings if name not in SETTINGS]
    if unknown or not (options.data or options.draw):
        found = f"--settings {unknown[0]}" if unknown else "neither --data nor --draw"
        print(f"study.py: wanted --data DIR and settings of {', '.join(SETTINGS)}, or --draw FILE; "
              f"found {found}", file=sys.stderr)
        return 64
    options.limited = ["--limit", str(options.limit)] if options.limit else []
    if not options.draw and not os.access(BINARY, os.X_OK):
        print(f"study.py: wanted the program, found none at {BINARY}", file=sys.stderr)
        return 69
    try:
        if options.draw:
            path = options.draw
            report = json.loads(path.read_text())
        else:
            path = options.out
            report = measure(options, json.loads(path.read_text()) if path.exists() else {})
            path.write_text(json.dumps(report, indent=1) + "\n")
        draw(report, path.parent)
    except Failed as error:
        print(f"study.py: {error}", file=sys.stderr)
        return error.code
    print(markdown(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
