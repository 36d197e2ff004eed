#!/usr/bin/env python3
"""Fits a temperature for each exit and chooses thresholds that cost at most so many points of
accuracy, on pictures held out from training; keeps them in the model file (weights/FORMAT.md).

    tools/calibrate.py resnet20b.safetensors --data data --heldout runs/resnet20b/checkpoint.pt
    tools/calibrate.py resnet20b.safetensors --data data --cost time --report targets.json --test
    offramp eval --model resnet20b.safetensors --data data --target 0.3

With --default one target's rules are what the engine does unless it is told otherwise.

The logits are the engine's own (offramp eval --logits). The pictures are divided once, at random:

1. On a part of them (--explore) each exit's temperature is fitted, by the negative log likelihood
   (Guo et al. 2017). Then thresholds of all exits are tried together on a grid, with only those
   pictures at an exit that reach it, and those combinations are kept, from careful to bold, of which
   none is cheaper with less to lose. To lose is here what the last exit's calibrated probabilities
   expect, so no labels are needed: it orders, and promises nothing.
2. On the others the combinations are tested one after the other, in this order and against the
   hypothesis "loses more than the target", until one cannot be rejected: fixed sequence testing,
   which needs no correction for their number (Angelopoulos et al., "Learn then Test", 2021). The
   target gets the last one before. A loss is paired: +1 where the last exit is right and the
   cascade wrong, -1 the other way round. Its p-value is exact: the largest probability of so few
   losses less gains under the hypothesis, over all discordance rates that an upper confidence limit
   (Clopper and Pearson 1934) leaves, plus what that limit may be wrong (Berger and Boos 1994).

So with --confidence, for each target by itself, the cascade loses at most so much on pictures drawn
as the held-out ones were. A target of 0 can be kept only by thresholds that are proved to gain, most
often by none. Exit codes: 0 done, 64 option, 65 bad data or model, 66 missing input, 70 the engine
decides otherwise than was computed here, 73 cannot write.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import modelfile  # noqa: E402
from commandline import Parser, Stop  # noqa: E402
from exit_statistics import (  # noqa: E402
    calibration_error,
    careful_to_bold,
    choose,
    doubts_of,
    exits_taken,
    fit_temperature,
    negative_log_likelihood,
    softmax,
)

TARGETS = "0,0.1,0.3,0.5,1"
TIMED_PICTURES = 1000


# ---- the engine ----------------------------------------------------------------------------------


class Engine:
    def __init__(self, binary, model, folder):
        self.binary, self.model, self.folder = binary, str(model), pathlib.Path(folder)

    def eval(self, data, *options):
        """What `offramp eval --json` says."""
        command = [self.binary, "eval", "--json", "--model", self.model, "--data", str(data)]
        try:
            done = subprocess.run([*command, *options], capture_output=True, text=True)
        except OSError as error:
            raise Stop(66, f"{self.binary}: wanted the engine, found {error.strerror}") from None
        if done.returncode != 0:
            raise Stop(done.returncode, done.stderr.strip().splitlines()[-1])
        return json.loads(done.stdout)

    def logits(self, data):
        """(float32 [pictures, exits, classes], what eval says)."""
        path = self.folder / "logits"
        said = self.eval(data, "--thresholds", "0", "--logits", str(path))
        flat = np.fromfile(path, "<f4")
        return flat.reshape(said["samples"], len(said["exits"]), -1), said

    def times(self, data, exits):
        """Mean milliseconds up to each exit, one picture at a time."""
        limit, means = ("--limit", str(TIMED_PICTURES)), []
        for exit in range(exits):
            thresholds = ",".join("1" if early == exit else "0" for early in range(exits - 1))
            options = ("--criterion", "entropy", "--thresholds", thresholds or "0")
            means.append(self.eval(data, *options, *limit)["mean_compute_ms"])
        return np.array(means)

    def exits_taken(self, data, *target):
        """The exit that answers each picture: with the model file's own rules, or a target's."""
        path = self.folder / "decisions"
        self.eval(data, *target, "--decisions", str(path))
        rows = path.read_text().splitlines()
        column = rows[0].split(",").index("exit")
        return np.array([int(row.split(",")[column]) for row in rows[1:]])


def write_batch(folder, pictures, labels):
    folder.mkdir()
    records = np.concatenate(
        [labels.astype(np.uint8)[:, None], pictures.reshape(len(labels), -1)], axis=1
    )
    records.tofile(folder / "test_batch.bin")


# ---- the whole -----------------------------------------------------------------------------------


class Calibration:
    """Temperatures and choices for one model."""

    def __init__(self, options, logits, labels, costs):
        order = np.random.RandomState(options.seed).permutation(len(labels))
        self.explored, self.tested = order[: options.explore], order[options.explore :]
        if not len(self.tested):
            raise Stop(64, f"--explore: wanted fewer than {len(labels)}, found {options.explore}")
        self.options, self.logits, self.labels = options, logits, labels
        self.costs = costs / costs[-1]
        exits = range(logits.shape[1])
        self.temperatures = [
            fit_temperature(logits[self.explored, exit], labels[self.explored]) for exit in exits
        ]
        self.said = logits.argmax(axis=2)
        self.right = self.said == labels[:, None]
        self.probabilities = self.tempered(logits)

    def tempered(self, logits):
        return np.stack(
            [softmax(logits[:, exit], t) for exit, t in enumerate(self.temperatures)], axis=1
        )

    def choices(self, criterion):
        """One Choice for each target."""
        doubts = doubts_of(criterion, self.probabilities, self.said)
        last = self.probabilities[:, -1]
        of_label = np.take_along_axis(last, self.said, axis=1)
        expected_loss = of_label[:, -1:] - of_label
        explored, tested = self.explored, self.tested
        path = careful_to_bold(doubts[explored], expected_loss[explored], self.costs)
        return [
            choose(points, path, doubts[tested], self.right[tested], self.options.confidence)
            for points in self.options.points
        ]

    def shares(self, taken):
        return [float((taken == exit).mean()) for exit in range(len(self.costs))]

    def target(self, criterion, choice):
        """As in the model file."""
        rules = [
            {"criterion": criterion, "threshold": threshold, "temperature": temperature}
            for threshold, temperature in zip([*choice.thresholds, 1.0], self.temperatures)
        ]
        return {
            "name": f"{choice.points:g}",
            "points": choice.points,
            "confidence": self.options.confidence,
            "rules": rules,
            "heldout": {
                "pictures": len(choice.taken),
                "loss": round(choice.loss_points, 4),
                "shares": [round(share, 6) for share in self.shares(choice.taken)],
                "cost": round(float(self.costs[choice.taken].mean()), 6),
            },
        }

    def scaling(self, logits, labels):
        """Negative log likelihood and calibration error of each exit, before and after."""
        rows = []
        for exit, temperature in enumerate(self.temperatures):
            before, after = softmax(logits[:, exit]), softmax(logits[:, exit], temperature)
            rows.append(
                {
                    "temperature": temperature,
                    "nll": [
                        negative_log_likelihood(logits[:, exit], labels, t)
                        for t in (1.0, temperature)
                    ],
                    "ece": [calibration_error(p, labels) for p in (before, after)],
                }
            )
        return rows

    def measured(self, criterion, choice, logits, labels):
        """What a choice does on other pictures."""
        said = logits.argmax(axis=2)
        taken = exits_taken(
            doubts_of(criterion, self.tempered(logits), said), choice.thresholds
        )
        right = said[np.arange(len(labels)), taken] == labels
        last = said[:, -1] == labels
        return {
            "pictures": len(labels),
            "accuracy": float(right.mean()),
            "loss": float(100 * (last.mean() - right.mean())),
            "shares": self.shares(taken),
            "cost": float(self.costs[taken].mean()),
        }


def read_heldout(options):
    """(pictures, labels) that were not trained on, and those of the test set when it is wanted."""
    import cifar10  # PyTorch is wanted from here on
    import torch

    try:
        root = cifar10.locate(options.data)
        pictures, labels = cifar10.read_train(root)
        if options.heldout:
            checkpoint = torch.load(options.heldout, map_location="cpu", weights_only=True)
            index = np.sort(np.asarray(checkpoint["val_idx"], np.int64))
            if not len(index) or index[0] < 0 or index[-1] >= len(labels):
                raise Stop(65, f"{options.heldout}: wanted val_idx within the training pictures")
        else:
            index = np.sort(cifar10.split(len(labels), options.holdout)[1])
        test = cifar10.read(root / cifar10.TEST_FILE) if options.test else None
    except cifar10.MissingData as error:
        raise Stop(66, str(error)) from None
    except cifar10.BadData as error:
        raise Stop(65, str(error)) from None
    except FileNotFoundError:
        raise Stop(66, f"{options.heldout}: wanted a checkpoint, found none") from None
    except KeyError:
        raise Stop(65, f"{options.heldout}: wanted val_idx, found none") from None
    return (pictures[index], labels[index]), test


def read_costs(options, engine, data, said):
    if options.cost == "macs":
        return np.array([exit["macs"] for exit in said["exits"]])
    if options.cost == "time":
        return engine.times(data, len(said["exits"]))
    costs = np.array(numbers("--cost", options.cost))
    if len(costs) != len(said["exits"]) or not (np.diff(costs) > 0).all() or not costs[0] > 0:
        raise Stop(64, f"--cost: wanted {len(said['exits'])} rising numbers, found {options.cost}")
    return costs


def write(options, model, targets):
    """The model with its targets, of which one may be its own rules; a golden file beside it stays
    the model's."""
    out = pathlib.Path(options.out or options.model)
    model.set_targets(targets)
    for target in targets:
        if target["points"] == options.default:
            model.set_rules(target["rules"])
    golden = out.with_name(out.name.removesuffix(".safetensors") + ".golden.safetensors")
    try:
        tensors = modelfile.read_safetensors(golden)[0] if golden.is_file() else None
        digest = modelfile.write_model(out, model)
        if tensors is not None:
            modelfile.write_safetensors(golden, tensors, {"offramp.hash": digest})
    except OSError as error:
        raise Stop(73, f"{out}: cannot be written: {error.strerror}") from None
    return out, digest


def table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def report_text(report):
    """Markdown."""
    parts = [
        table(
            ["exit", "temperature", "NLL", "calibrated", "ECE", "calibrated"],
            [
                [n + 1, row["temperature"], *(f"{v:.4f}" for v in row["nll"] + row["ece"])]
                for n, row in enumerate(report["scaling"])
            ],
        )
    ]
    tested = any("test" in one for one in report["choices"])
    rows = []
    for one in report["choices"]:
        held, test = one["heldout"], one.get("test")
        row = [one["points"], one["criterion"], ", ".join(f"{t:.4g}" for t in one["thresholds"])]
        row += [f"{held['loss']:.2f}", f"{100 * held['cost']:.1f} %"]
        if tested:
            row += [f"{test['loss']:.2f}", f"{100 * test['cost']:.1f} %"]
            row += [" / ".join(f"{100 * share:.1f}" for share in test["shares"])]
        rows.append(row)
    header = ["target", "criterion", "thresholds", "held out: points lost", "cost"]
    header += ["test set: points lost", "cost", "share of each exit, %"] if tested else []
    return "\n\n".join([*parts, table(header, rows)])


def run(arguments):
    options = parse(arguments)
    try:
        model = modelfile.read_model(options.model)
    except FileNotFoundError:
        raise Stop(66, f"{options.model}: wanted a model, found none") from None
    except modelfile.ModelError as error:
        raise Stop(65, str(error)) from None
    if len(model.exits) < 2:
        raise Stop(64, f"{options.model}: wanted a model with early exits, found one exit")
    (pictures, labels), test = read_heldout(options)
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine(options.offramp, options.model, folder)
        data = pathlib.Path(folder) / "heldout"
        write_batch(data, pictures, labels)
        logits, said = engine.logits(data)
        calibration = Calibration(options, logits, labels, read_costs(options, engine, data, said))
        tested = calibration.tested
        report = {
            "model": model.name,
            "isa": said["isa"],
            "heldout": len(labels),
            "explored": len(calibration.explored),
            "confidence": options.confidence,
            "cost": options.cost,
            "costs": calibration.costs.tolist(),
            "heldout_accuracy": calibration.right.mean(axis=0).tolist(),
            "scaling": calibration.scaling(logits[tested], labels[tested]),
            "choices": [],
        }
        test_logits = None
        if test is not None:
            write_batch(pathlib.Path(folder) / "test", *test)
            test_logits, _ = engine.logits(pathlib.Path(folder) / "test")
            report["test_accuracy"] = (
                (test_logits.argmax(axis=2) == test[1][:, None]).mean(axis=0).tolist()
            )
            report["test_scaling"] = calibration.scaling(test_logits, test[1])
        targets = []
        for criterion in modelfile.CRITERIA:
            for choice in calibration.choices(criterion):
                target = calibration.target(criterion, choice)
                if criterion == options.criterion:
                    targets.append((target, choice))
                entry = {
                    "points": choice.points,
                    "criterion": criterion,
                    "thresholds": list(choice.thresholds),
                    "p": choice.p,
                    "losses": choice.losses,
                    "gains": choice.gains,
                    "heldout": target["heldout"],
                }
                if test is not None:
                    entry["test"] = calibration.measured(criterion, choice, test_logits, test[1])
                report["choices"].append(entry)
        out, digest = write(options, model, [target for target, _ in targets])
        engine.model, report["id"] = str(out), digest[:16]
        for target, choice in targets:
            ways = [["--target", target["name"]]] + [[]] * (choice.points == options.default)
            if any((engine.exits_taken(data, *way)[tested] != choice.taken).any() for way in ways):
                raise Stop(70, f"target {target['name']}: the engine takes other exits")
    report["choices"].sort(key=lambda one: one["points"])
    if options.report:
        try:
            pathlib.Path(options.report).write_text(json.dumps(report, indent=1) + "\n")
        except OSError as error:
            raise Stop(73, f"{options.report}: cannot be written: {error.strerror}") from None
    print(report_text(report))
    print(f"\n{out}: {len(targets)} targets of {options.criterion}, hash {digest}")


def numbers(option, text):
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise Stop(64, f"{option}: wanted numbers with commas between, found {text}") from None


def parse(arguments):
    parser = Parser(
        prog="calibrate.py",
        description=__doc__,
    )
    add = parser.add_argument
    add("model", help="model file; gets the targets")
    add("--data", required=True, metavar="DIR", help="CIFAR-10's binary layout, all six files")
    add("--heldout", metavar="CHECKPOINT", help="whose val_idx was held out (default: train.py's)")
    add("--holdout", type=int, default=5000, metavar="N", help="train.py's (default 5000)")
    add("--explore", type=int, default=500, metavar="N", help="pictures of step 1 (default 500)")
    add("--seed", type=int, default=1, metavar="N", help="that divides the pictures (default 1)")
    add("--targets", default=TARGETS, help=f"points of accuracy below the last exit ({TARGETS})")
    add("--default", type=float, metavar="POINTS", help="the target whose rules are the file's own")
    add("--confidence", type=float, default=0.9, help="with which a target holds (default 0.9)")
    add("--criterion", choices=modelfile.CRITERIA, default="entropy", help="of the file's targets")
    add("--cost", default="macs", metavar="macs|time|C1,C2,...", help="up to each exit (macs)")
    add("-o", "--out", metavar="FILE", help="model file to write (default: MODEL itself)")
    add("--report", metavar="FILE", help="write all that was found as JSON")
    add("--test", action="store_true", help="also measure every choice on the test pictures")
    add("--offramp", default=os.environ.get("OFFRAMP_BINARY", "offramp"), help="the engine")
    options = parser.parse_args(arguments)
    options.points = sorted(numbers("--targets", options.targets))
    if not all(0 <= points <= 100 for points in options.points):
        parser.error(f"--targets: wanted points from 0 to 100, found {options.targets}")
    if len(set(options.points)) != len(options.points):
        parser.error(f"--targets: wanted distinct numbers, found {options.targets}")
    if options.default is not None and options.default not in options.points:
        parser.error(f"--default: wanted one of {options.targets}, found {options.default:g}")
    if options.default is not None and options.criterion == "patience":
        parser.error("--default: wanted a criterion that holds over several nodes, found patience")
    if not 0 < options.confidence < 1:
        parser.error(f"--confidence: wanted a number between 0 and 1, found {options.confidence}")
    if options.explore < 1:
        parser.error(f"--explore: wanted 1 or more, found {options.explore}")
    return options


def main(arguments):
    try:
        run(arguments)
    except Stop as error:
        print(f"calibrate: {error}", file=sys.stderr)
        return error.code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
