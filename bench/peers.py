#!/usr/bin/env python3
"""Measures the engine beside those that a user would pick instead, in one run on the same cores.

    peers.py                              everything: all networks, batch 1, 8, 32, 1 and 2 threads
    peers.py --quick                      ResNet-20 and ResNet-50, batch 1, 1 thread, few rounds
    peers.py --networks resnet20b --batches 1 --threads 1 --rounds 30 --out build/peers/b.json

Wanted: the build (network_bench), and Python with PyTorch (Debian: python3-torch). The other peers
come from PyPI into build/peers-venv; one that cannot be installed is named and left out. The models
are written to build/peers, about 4 GB for all of them.

Before anything is timed, every engine's logits must equal PyTorch's within 1e-4 (ours) or 1e-3
(peers, whose Winograd blocks may be larger) of the largest one; who disagrees is not timed. Then
the engines take turns for some tenths of a second each, pinned to the same cores, in an order that
changes from round to round; all the others are stopped meanwhile. Only ratios within one run count.
Results: JSON in --out, Markdown tables on standard output.
Exit codes: 0 done, 1 our engine disagrees or failed, 64 option, 69 no build or no PyTorch,
130 interrupted (the JSON holds what was finished).
"""

import argparse
import datetime
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import venv

try:
    import numpy
    import torch
except ImportError:
    print(
        f"peers: wanted PyTorch, found none in {sys.executable} "
        "(Debian: python3-torch, /usr/bin/python3)",
        file=sys.stderr,
    )
    sys.exit(69)

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "bench"))
import peers_models  # noqa: E402
from peers_measure import Engine, EngineError, alternate, footprint, summary  # noqa: E402
from peers_report import BASELINE, OURS, compare, git, machine, markdown  # noqa: E402

# Of the exit's largest |logit|, as in tools/compare_with_pytorch.py: float32 sums in another order
# leave about 1e-6, Winograd's F(4x4, 3x3) about 1e-5, and a wrong layer 1e-2 and more. Peers may
# choose larger blocks, and be timed with them: MNN's VGG-16 is off by 1.6e-4.
TOLERANCE = 1e-4
PEER_TOLERANCE = 1e-3
PACKAGES = {
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "ncnn": "ncnn pnnx",
    "mnn": "MNN",
    "litert": "ai-edge-litert",
}
PEERS = (*PACKAGES, "torch")  # torch is that of this interpreter


def log(text):
    print(f"peers: {text}", file=sys.stderr, flush=True)


# ---- options -------------------------------------------------------------------------------------


def words(text):
    return [word for word in text.split(",") if word]


def counts(text):
    values = [int(word) for word in words(text)]
    if not values or min(values) < 1:
        raise argparse.ArgumentTypeError(f"wanted numbers from 1, found {text}")
    return values


def subjects(text):
    found = []
    for word in words(text):
        keys = [key for key in peers_models.SUBJECTS if word in (key, key.split(":")[0])]
        if not keys:
            known = ", ".join(peers_models.SUBJECTS)
            raise argparse.ArgumentTypeError(f"wanted some of {known}, found {word}")
        found += keys
    return found


def peer_names(text):
    if set(words(text)) - set(PEERS):
        raise argparse.ArgumentTypeError(f"wanted some of {', '.join(PEERS)}, found {text}")
    return words(text)


class Parser(argparse.ArgumentParser):
    def error(self, message):
        print(f"peers: {message}", file=sys.stderr)
        sys.exit(64)


def parse(arguments):
    parser = Parser(
        prog="peers.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--networks", type=subjects, help=f"of {','.join(peers_models.SUBJECTS)}; default all")
    add("--batches", type=counts, help="default 1,8,32")
    add("--threads", type=counts, help="default 1,2, as far as there are cores")
    add("--rounds", type=int, help="default 15, with --quick 5")
    add("--slice", type=float, help="seconds of each turn, default 0.3, with --quick 0.15")
    add("--quick", action="store_true", help="resnet20,resnet50, batch 1, 1 thread")
    add("--peers", type=peer_names, default=list(PEERS), help=f"of {','.join(PEERS)}; default all")
    add("--cpus", type=lambda text: [int(n) for n in words(text)], help="cores to be pinned to")
    add("--folder", type=lambda text: pathlib.Path(text).absolute(), default=ROOT / "build",
        help="for environment and models")
    bench = ROOT / "build/release/bench/network_bench"
    add("--bench", type=pathlib.Path, default=bench, help="network_bench, default that of release")
    add("--out", type=pathlib.Path, help="default: peers.json in --folder")
    options = parser.parse_args(arguments)
    options.cpus = options.cpus or sorted(os.sched_getaffinity(0))
    quick = options.quick
    defaults = {
        "networks": ["resnet20", "resnet50"] if quick else list(peers_models.SUBJECTS),
        "batches": [1] if quick else [1, 8, 32],
        "threads": [1] if quick else [n for n in (1, 2) if n <= len(options.cpus)],
        "rounds": 5 if quick else 15,
        "slice": 0.15 if quick else 0.3,
        "out": options.folder / "peers.json",
    }
    for key, value in defaults.items():
        if getattr(options, key) is None:
            setattr(options, key, value)
    if options.rounds < 1 or options.slice <= 0:
        parser.error("--rounds, --slice: wanted more than 0")
    if max(options.threads) > len(options.cpus):
        parser.error(f"--threads: wanted at most {len(options.cpus)}, the cores there are")
    if not options.bench.is_file():
        print(f"peers: {options.bench}: not built, or --bench wanted", file=sys.stderr)
        sys.exit(69)
    options.bench = options.bench.absolute()
    return options


# ---- preparation ---------------------------------------------------------------------------------


def install(peers, folder):
    """Creates the environment; returns {peer: why it is missing}."""
    if not (folder / "bin" / "python").is_file():
        venv.create(folder, with_pip=True)
    pip, missing = [folder / "bin" / "python", "-m", "pip", "--disable-pip-version-check"], {}
    listed = subprocess.run([*pip, "list", "--format=json"], check=True, capture_output=True)
    present = {entry["name"].lower() for entry in json.loads(listed.stdout)}
    for peer in peers:
        wanted = PACKAGES.get(peer, "").split()
        if all(name.lower() in present for name in wanted):
            continue
        log(f"installs {' '.join(wanted)}")
        result = subprocess.run([*pip, "install", "-q", *wanted], capture_output=True, text=True)
        if result.returncode:
            lines = result.stderr.strip().splitlines()
            missing[peer] = f"cannot be installed: {lines[-1] if lines else result.returncode}"
    return missing


class Bench:
    """One run of this program: options, files, and what went wrong."""

    def __init__(self, options):
        self.options = options
        self.environment = options.folder / "peers-venv"
        self.models = options.folder / "peers"
        self.models.mkdir(parents=True, exist_ok=True)
        self.problems, self.versions, self.ours_failed = [], {}, False
        missing = install(options.peers, self.environment)
        for peer, reason in missing.items():
            self.problem(peer, "", reason)
        self.peers = [peer for peer in options.peers if peer not in missing]

    def problem(self, engine, where, reason):
        self.problems.append({"engine": engine, "where": where, "reason": reason})
        log(f"{engine}{' at ' if where else ''}{where}: {reason}")

    def command(self, name, subject, module, batch, threads):
        """What starts an engine on a network."""
        if name == OURS:
            exit = ["--exit", subject.exit] if subject.exit else []
            model = subject.model_path(self.models)
            return [self.options.bench, model, "--batch", batch, "--threads", threads, *exit]
        python = sys.executable if name == "torch" else self.environment / "bin" / "python"
        suffix = peers_models.FORMATS[name][0] if name != BASELINE else "none"
        return [
            *(python, ROOT / "bench" / "peers_workers.py", name),
            *(subject.path(self.models, suffix), "--batch", batch, "--threads", threads),
            *("--exits", len(module.exits), "--classes", module.classes),
            *("--shape", ",".join(map(str, module.input_shape))),
        ]

    def measure_network(self, key):
        """Yields ("timings" or "footprints", row): all batches and thread counts, then the rest."""
        subject = peers_models.SUBJECTS[key]
        log(f"{subject.title}: models")
        peers_models.make_model(subject, self.models)
        scripts = (self.environment / "bin").absolute()
        failures = peers_models.make_formats(subject, self.models, scripts, self.peers)
        for peer, reason in failures.items():
            self.problem(peer, subject.title, reason)
        module = peers_models.load(subject, self.models)
        names = [OURS, *(peer for peer in self.peers if peer not in failures)]
        x = peers_models.samples(module.input_shape, max(self.options.batches))
        wanted = peers_models.reference(module, x)
        for threads in self.options.threads:
            for batch in self.options.batches:
                row = self.measure(subject, module, names, x[:batch], wanted[:, :batch], threads)
                yield "timings", row
        yield "footprints", self.footprints(subject, module, names)

    def measure(self, subject, module, names, x, wanted, threads):
        """One row of the table."""
        batch = len(x)
        where = f"{subject.title}, batch {batch}, {threads} threads"
        log(where)
        engines, errors, load = [], {}, os.getloadavg()[0]
        cpus = self.options.cpus[:threads]
        try:
            for name in names:
                try:
                    command = self.command(name, subject, module, batch, threads)
                    engine = Engine(name, command, cpus, threads)
                    engines.append(engine)
                    self.versions[name] = engine.version
                    errors[name] = disagreement(engine, x, wanted)
                    allowed = TOLERANCE if name == OURS else PEER_TOLERANCE
                    if not errors[name] <= allowed:
                        reason = f"logits differ by {errors[name]:.2g} of the largest"
                        raise EngineError(f"{reason}, wanted {allowed:g} at most")
                except EngineError as error:
                    if engines and engines[-1].name == name:
                        engines.pop().close()
                    self.ours_failed |= name == OURS
                    self.problem(name, where, str(error))
            times, failures = alternate(engines, self.options.rounds, self.options.slice)
        finally:
            for engine in engines:
                engine.close()
        for name, reason in failures.items():
            self.ours_failed |= name == OURS
            self.problem(name, where, reason)
        found = {
            name: {**summary(rounds), "disagreement": errors[name]}
            for name, rounds in times.items()
        }
        row = {"network": subject.title, "batch": batch, "threads": threads}
        row |= {"load_average_before": load, "engines": found}
        return {**row, **compare(found)}

    def footprints(self, subject, module, names):
        log(f"{subject.title}: memory and start-up")
        found = {}
        for name in [*names, BASELINE]:
            try:
                found[name] = footprint(
                    name, self.command(name, subject, module, 1, 1), self.options.cpus[:1], 1, 3
                )
            except EngineError as error:
                self.problem(name, f"{subject.title}, start-up", str(error))
        return {"network": subject.title, "engines": found}


def disagreement(engine, x, wanted):
    """Sets the input; largest difference from PyTorch's logits, as a share of the largest."""
    with tempfile.TemporaryDirectory() as work:
        source, target = pathlib.Path(work) / "input", pathlib.Path(work) / "logits"
        x.tofile(source)
        engine.ask(f"input {source}")
        engine.ask(f"logits {target}")
        found = numpy.fromfile(target, numpy.float32)
    if found.size != wanted.size:
        raise EngineError(f"wanted {wanted.size} logits, found {found.size}")
    errors = abs(found.reshape(wanted.shape) - wanted).max((1, 2)) / abs(wanted).max((1, 2))
    return float(errors.max())  # a NaN stays one


def older_than_sources(binary):
    """Whether the build is not of the sources beside this program."""
    sources = [path for folder in ("engine", "kernels") for path in (ROOT / folder).rglob("*.*")]
    return binary.stat().st_mtime < max(path.stat().st_mtime for path in sources)


def main(arguments):
    options = parse(arguments)
    torch.set_num_threads(len(options.cpus))
    stale = older_than_sources(options.bench)
    if stale:
        log(f"warning: {options.bench} is older than the sources: build it, or the commit is wrong")
    bench = Bench(options)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    result = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(git("status", "--porcelain")),
        "build_older_than_sources": stale,
        **machine(),
        "pinned_to": options.cpus,
        "rounds": options.rounds,
        "slice_s": options.slice,
        "tolerance": TOLERANCE,
        "peer_tolerance": PEER_TOLERANCE,
        "versions": bench.versions,
        "problems": bench.problems,
        "timings": [],
        "footprints": [],
    }
    for key in options.networks:
        for kind, row in bench.measure_network(key):
            result[kind].append(row)  # and written at once: runs are long
            options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(markdown(result))
    return 1 if bench.ours_failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
