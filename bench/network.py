#!/usr/bin/env python3
"""What the network between the tiers costs and bears, measured on this machine with real processes.

    network.py [--only PART[,PART...]] [--quick] [--data DIR] [--out FILE]
    network.py --table FILE

Parts:
    hop     round trip of a request whose computation is next to nothing (build/release/bench/hop_bench)
    codec   encoding and decoding a tensor at the first cut (build/release/bench/codec_bench)
    idle    CPU time of an edge and a cloud with a device that is connected and says nothing
    busy    a cloud that is never idle, beside the engine alone with the same stage and batch size
            (build/release/bench/stage_bench)
    many    1,000 devices: the peak, the latencies below it, and three times the peak

Answers are checked before and while times are taken: any that is lost, doubled or wrong ends the
run. Tiers, devices and the generator share this machine's cores. JSON goes to --out (by default
build/network.json), where parts that were not run keep what stands there; a Markdown table to
standard output. --data sends the pictures of a data set (as for eval) in place of the samples.
Exit codes: 0 done, 64 option, 69 no build, otherwise that of what failed.
"""

import argparse
import contextlib
import json
import os
import pathlib
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from scene import BINARY, BUILD, MODEL, Child, Failed, Node, make_keys  # noqa: E402

PARTS = ("hop", "codec", "idle", "busy", "many")
DEVICES = 1000
KEYS = 16  # a node knows 64 connections of one key
CODEC = ("--codec", "u8")  # of every link
CLOUD_STAGE = 2
BATCH_SIZES = (1, 8, 32)


def output_of(command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        line = done.stderr.strip() or "no word"
        raise Failed(f"{pathlib.Path(command[0]).name}: {line}", done.returncode)
    return done.stdout


def make_device_keys(keys):
    """A folder of as many keys as devices are to share, which the edge lets in beside its own."""
    folder = keys / "devices"
    folder.mkdir(mode=0o700)
    shutil.copy(keys / "device" / "next.pub", folder)
    with open(keys / "edge" / "allow", "a", encoding="ascii") as allow:
        for number in range(KEYS):
            public = output_of([BINARY, "keygen", folder / f"{number:02}.key"]).strip()
            allow.write(f"device {public} {number:02}\n")


def node(folder, tier, following=None, more=()):
    return Node(folder, tier, following, ("--quiet", *more))


@contextlib.contextmanager
def tiers(folder):
    """An edge and the cloud behind it. A queue as long as there may be requests of all devices."""
    with node(folder, "cloud") as cloud:
        with node(folder, "edge", cloud, ["--queue", DEVICES, *CODEC]) as edge:
            yield edge, cloud


def load_command(arguments, folder, peer, client, more):
    data = ["--data", arguments.data] if arguments.data else []
    return [BINARY, "load", "--next", peer.address, "--keys", folder / "keys" / client, "--json",
            "--model", MODEL, *CODEC, *data, *more]


def load(arguments, folder, peer, client, *more):
    """The rows of `offramp load`; Failed when an answer was lost, doubled or wrong."""
    return json.loads(output_of(load_command(arguments, folder, peer, client, more)))["rows"]


# ---- the parts ----


def measure_hop(arguments, folder):
    rounds = 500 if arguments.quick else 5000
    return json.loads(output_of([BUILD / "bench" / "hop_bench", rounds]))


def measure_codec(arguments, folder):
    command = [BUILD / "bench" / "codec_bench", "--benchmark_filter=^16x32x32/(f32|f16|u8|u8c)/both$",
               "--benchmark_repetitions=5", "--benchmark_format=json"]
    found = json.loads(output_of(command))["benchmarks"]
    times = {}
    for one in found:
        if one["run_type"] == "iteration":
            times.setdefault(one["name"].split("/")[1], []).append(one["cpu_time"])
    return {codec: {"median_us": round(statistics.median(values), 2), "best_us": round(min(values), 2)}
            for codec, values in times.items()}


def measure_idle(arguments, folder):
    seconds = 5 if arguments.quick else 30
    with tiers(folder) as (edge, cloud):
        # A device that is connected, sends once at the start and then nothing in this time.
        command = load_command(arguments, folder, edge, "devices",
                               ("--rate", "0.01", "--arrivals", "uniform", "--duration",
                                f"{seconds + 10}s"))
        device = Child("device", command, folder)
        try:
            time.sleep(3)
            if not device.alive():
                raise Failed(f"wanted a device that stays, found: {device.said()}",
                             device.process.returncode)
            before = [tier.cpu_seconds() for tier in (edge, cloud)]
            time.sleep(seconds)
            after = [tier.cpu_seconds() for tier in (edge, cloud)]
        finally:
            device.end()
    shares = [100 * (b - a) / seconds for a, b in zip(before, after)]
    return {"seconds": seconds, "edge_percent": round(shares[0], 3), "cloud_percent": round(shares[1], 3)}


def engine_rate(batch, seconds):
    """Pictures a second of the stage that a cloud runs, in one thread and in batches."""
    return float(output_of([BUILD / "bench" / "stage_bench", MODEL, CLOUD_STAGE, batch, seconds]))


def measure_busy(arguments, folder):
    """In turns, for a machine's speed changes from one second to the next."""
    rounds, seconds = (3, 1) if arguments.quick else (9, 2)
    rows = []
    for batch in BATCH_SIZES:
        engine, nodes = [], []
        with node(folder, "cloud", more=["--batch", batch]) as cloud:
            for _ in range(rounds):
                engine.append(engine_rate(batch, seconds))
                found, = load(arguments, folder, cloud, "edge", "--cut", "2",
                              "--concurrency", str(4 * batch), "--connections", "4", "--window",
                              str(batch), "--duration", f"{seconds}s", "--deadline", "5s")
                nodes.append(found["goodput"])
        shares = [n / e for n, e in zip(nodes, engine)]
        rows.append({"batch": batch, "engine_per_second": round(statistics.median(engine), 1),
                     "node_per_second": round(statistics.median(nodes), 1),
                     "share": round(statistics.median(shares), 3),
                     "shares": [round(share, 3) for share in shares]})
    return rows


def measure_many(arguments, folder):
    seconds = 3 if arguments.quick else 20
    devices = ("--connections", str(DEVICES), "--wait", "60s")
    with tiers(folder) as (edge, _):
        rows = load(arguments, folder, edge, "devices", *devices, "--rate", "200", "--sweep",
                    "--duration", f"{max(2, seconds // 4)}s")
        peak = max(row["goodput"] for row in rows)
        rates = [0.5 * peak, 0.8 * peak, 3 * peak]
        below, near, above = load(arguments, folder, edge, "devices", *devices, "--rate",
                                  ",".join(f"{rate:.0f}" for rate in rates), "--duration",
                                  f"{seconds}s")
    return {"devices": DEVICES, "keys": KEYS, "sweep": rows, "peak_goodput": peak, "at_half": below,
            "at_four_fifths": near, "at_three_times": above,
            "kept_at_three_times": round(above["goodput"] / peak, 3)}


# ---- the report ----


def cpu_model():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def context():
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True,
                            text=True)
    return {"cpu": cpu_model(), "cores": len(os.sched_getaffinity(0)),
            "kernel": platform.release(), "commit": commit.stdout.strip(),
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "load_average": [round(value, 2) for value in os.getloadavg()]}


def latencies(row):
    times = row["latency_ms"]
    return ", ".join(f"{name} {times[name]:.2f}" for name in ("p50", "p99", "p99.9")) + " ms"


def load_line(name, row):
    bad = ", ".join(f"{row[what]} {what}" for what in ("lost", "duplicated", "wrong"))
    return (f"| {name}: {row['rate']:,.0f} requests/s | {row['goodput']:,.0f} in time; "
            f"{latencies(row)}; {bad} |")


def markdown(report):
    lines = ["| measured | found |", "|---|---|"]
    for hop in report.get("hop", {}).get("hops", []):
        name = "CURVE" if hop["curve"] else "no keys"
        lines.append(f"| one hop, {hop['tensor']}, {name} | p50 {hop['p50_us']:.0f} us, p99 "
                     f"{hop['p99_us']:.0f} us; {hop['compute_p50_us']:.0f} us of it computing; ZeroMQ alone "
                     f"p50 {hop['bare_zmq_p50_us']:.0f} us, bare TCP {hop['bare_tcp_p50_us']:.0f} us |")
    for codec, times in report.get("codec", {}).items():
        if codec in CODEC:
            lines.append(f"| encode and decode 16x32x32 as {codec} | {times['median_us']:.1f} us |")
    if idle := report.get("idle"):
        lines.append(f"| idle, a device connected, {idle['seconds']} s | edge "
                     f"{idle['edge_percent']:.2f} %, cloud {idle['cloud_percent']:.2f} % of a core |")
    for row in report.get("busy", []):
        lines.append(f"| busy cloud, batch {row['batch']} | {row['node_per_second']:,.0f} pictures/s, "
                     f"{100 * row['share']:.0f} % of the engine's {row['engine_per_second']:,.0f} |")
    if many := report.get("many"):
        lines.append(f"| {many['devices']:,} devices, peak | {many['peak_goodput']:,.0f} requests/s |")
        lines.append(load_line("half of it", many["at_half"]))
        lines.append(load_line("four fifths", many["at_four_fifths"]))
        lines.append(load_line("three times", many["at_three_times"]))
    return "\n".join(lines)


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--data")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "build" / "network.json")
    parser.add_argument("--table", type=pathlib.Path)
    parsed = parser.parse_args(arguments)
    parsed.only = parsed.only.split(",")
    unknown = sorted(set(parsed.only) - set(PARTS))
    if unknown:
        parser.error(f"--only: wanted some of {', '.join(PARTS)}, found '{unknown[0]}'")
    return parsed


def main():
    try:
        arguments = parse(sys.argv[1:])
    except SystemExit as error:
        return 64 if error.code else 0
    if arguments.table:
        print(markdown(json.loads(arguments.table.read_text())))
        return 0
    if not BINARY.exists():
        print(f"network: wanted the program, found none at {BINARY}", file=sys.stderr)
        return 69
    report = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    report.setdefault("context", {})
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        make_device_keys(make_keys(folder))
        try:
            for part in PARTS:
                if part not in arguments.only:
                    continue
                print(f"network: {part} ...", file=sys.stderr)
                before = context()
                report[part] = globals()[f"measure_{part}"](arguments, folder)
                report["context"][part] = before
                arguments.out.parent.mkdir(parents=True, exist_ok=True)
                arguments.out.write_text(json.dumps(report, indent=1) + "\n")
        except Failed as failed:
            print(f"network: {failed}", file=sys.stderr)
            return failed.code
        except FileNotFoundError as missing:
            print(f"network: wanted what cmake --build --preset release makes, found no "
                  f"{missing.filename}", file=sys.stderr)
            return 69
    print(markdown(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
