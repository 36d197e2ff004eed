#!/usr/bin/env python3
"""Networks of the field, trained by tools/train.py with one recipe, and run by the engine.

    model_zoo.py --data DIR [--runs DIR] [--out FILE] [NAME...] [-- OPTION of train.py...]

For each NAME (by default all of them): trains it in RUNS/NAME, or goes on where it was interrupted;
exports it to RUNS/NAME.safetensors; calibrates it there, for a loss of at most half a point; and
measures that file on the test pictures: exits, cascade, and the logits beside PyTorch's. A network
whose file stands in weights/ is measured from there. DIR is CIFAR-10's binary layout. --runs is
build/zoo unless it is said, and --out bench/results/model-zoo.json, where networks that were not named
keep what stands there. The recipe is train.py's own, or what stands after --:

    bench/model_zoo.py --data data resnet20 alexnetb -- --budget --amp

Exit codes: 0 done, 1 the engine's logits are not PyTorch's, 64 option, 69 no build, 130
interrupted, otherwise that of what failed.
"""

import argparse
import json
import os
import pathlib
import signal
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import compare_with_pytorch  # noqa: E402
import modelfile  # noqa: E402
import tables  # noqa: E402
from commandline import Parser, Stop  # noqa: E402

BINARY = ROOT / "build" / "release" / "offramp"
POINTS = "0.5"  # of accuracy below the last exit: what a file's own thresholds may cost
# What makes each another network than train.py's default.
RECIPES = {
    "resnet20": ("--no-exits",),
    "resnet20b": (),
    # As the prototype's: wide fully-connected heads without batch norm, which learn from labels alone
    # and do not shape the trunk; padded shortcuts. Since only the heads feel their losses, the weights
    # of these are how slowly they learn, which 14,400 inputs without a norm want.
    "resnet20b-classic": ("--heads", "classic", "--shortcut", "pad", "--branch-gradient", "0",
                          "--loss-weights", "0.02,0.02,1", "--distill-alpha", "0", "--ema", "0",
                          "--schedule", "cosine", "--lr", "0.05", "--weight-decay", "1e-4"),
    "resnet32b": ("--network", "resnet32"),
    "resnet56b": ("--network", "resnet56"),
    "resnet110b": ("--network", "resnet110"),
    "alexnetb": ("--network", "alexnet"),
}
# Options of a recipe that say where it ran, or which of several it was.
TELLING = ("epochs", "trunk_epochs", "batch", "lr", "schedule", "heads", "shortcut", "loss_weights",
           "distill_alpha", "branch_gradient", "ema", "teacher", "amp", "seed")


def say(text):
    print(f"model_zoo.py: {text}", file=sys.stderr, flush=True)


def call(*words):
    """What a program prints to standard output. Raises Stop with its exit code."""
    command = [str(word) for word in words]
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE)
    if done.returncode != 0:
        raise Stop(done.returncode, f"{' '.join(command[:3])}: ended with {done.returncode}")
    return done.stdout


def tool(name, *words):
    return call(sys.executable, ROOT / "tools" / name, *words)


def make(name, options):
    """(model file, log of its training), both made where they are not there yet."""
    folder, file = options.runs / name, options.runs / f"{name}.safetensors"
    say(f"{name}: training in {folder}")
    tool("train.py", "--data", options.data, "--out", folder, "--resume", *RECIPES[name],
         *options.training)
    log = folder / "log.json"
    tool("export_weights.py", folder / "checkpoint.pt", "--name", name, "-o", file)
    if "--no-exits" not in RECIPES[name]:
        tool("calibrate.py", file, "--data", options.data, "--heldout", folder / "checkpoint.pt",
             "--default", POINTS, "--offramp", BINARY)
    return file, log


def found(name, options):
    """(model file, log): the one that is kept, or a new one."""
    kept = ROOT / "weights" / f"{name}.safetensors"
    if kept.exists():
        return kept, ROOT / "bench" / "results" / f"train-{name}.json"
    return make(name, options)


def beside_pytorch(file, model, isa, options):
    """All logits of the test pictures, the engine's and those of PyTorch's float32."""
    data = compare_with_pytorch.open_data(options.data, model.classes)
    wanted = compare_with_pytorch.pytorch_logits(model, data, len(data.labels))
    engine = argparse.Namespace(offramp=BINARY, data=options.data, model=file, limit=None)
    logits = compare_with_pytorch.engine_logits(engine, isa, "auto", wanted.shape)
    exits = [compare_with_pytorch.compare(wanted[:, exit], logits[:, exit], data.labels)
             for exit in range(len(model.exits))]
    return {
        "version": compare_with_pytorch.torch.__version__,
        "isa": isa,
        "difference": max(one.difference for one in exits),
        "top1_differs": sum(one.disagreements for one in exits),
        "holds": all(one.holds for one in exits),
    }


def measure(name, options):
    file, log = found(name, options)
    say(f"{name}: measuring {file.name}")
    model = modelfile.read_model(file)
    sweep = ["--sweep"] if len(model.exits) > 1 else []
    said = json.loads(
        call(BINARY, "eval", "--model", file, "--data", options.data, "--json", *sweep))
    training = json.loads(log.read_text())
    entry = {
        "id": said["id"],
        "parameters": training["parameters"],
        "training": {
            **{one: training["config"][one] for one in TELLING if one in training["config"]},
            "device": training["device"],
            "heldout_accuracy": [each / 100 for each in training["epochs"][-1]["heldout_accuracy"]],
        },
        "exits": [{key: exit[key] for key in ("name", "accuracy", "share", "macs")}
                  for exit in said["exits"]],
        "thresholds": said["thresholds"],
        "temperatures": said["temperatures"],
        "accuracy": said["accuracy"],
        "mean_macs": said["mean_macs"],
        "pytorch": beside_pytorch(file, model, said["isa"], options),
    }
    if sweep:  # the first point is T = 0: all of the network, for every picture
        entry["time_share"] = said["mean_compute_ms"] / said["sweep"][0]["mean_ms"]
    return entry


def parse(words):
    """What stands after -- is for train.py."""
    end = words.index("--") if "--" in words else len(words)
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", help=", ".join(RECIPES))
    add("--data", type=pathlib.Path, required=True, metavar="DIR")
    add("--runs", type=pathlib.Path, default=ROOT / "build" / "zoo", metavar="DIR")
    add("--out", type=pathlib.Path, default=ROOT / "bench" / "results" / "model-zoo.json",
        metavar="FILE")
    options = parser.parse_args(words[:end])
    options.training = words[end + 1 :]
    options.names = options.names or list(RECIPES)
    for name in options.names:
        if name not in RECIPES:
            parser.error(f"wanted one of {', '.join(RECIPES)}, found {name}")
    return options


def run(options):
    if not os.access(BINARY, os.X_OK):
        raise Stop(69, f"wanted the program, found none at {BINARY}")
    options.runs.mkdir(parents=True, exist_ok=True)
    report = json.loads(options.out.read_text()) if options.out.exists() else {}
    for name in options.names:
        report[name] = measure(name, options)
        options.out.write_text(json.dumps(report, indent=1, sort_keys=True) + "\n")
    print(tables.model_zoo(report))
    return 0 if all(report[name]["pytorch"]["holds"] for name in options.names) else 1


def main(words):
    # ^C is for train.py, which keeps its state and says so.
    signal.signal(signal.SIGINT, lambda _number, _frame: None)
    try:
        return run(parse(words))
    except Stop as error:
        say(error)
        return error.code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
