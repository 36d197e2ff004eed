#!/usr/bin/env python3
"""Trains a network with early exits on CIFAR-10: the trunk first, then all exits at once.

    tools/train.py --data cifar10 --network resnet20 --out runs/resnet20b
    tools/train.py --data cifar10 --network resnet20 --out runs/resnet20b --resume
    tools/train.py --data cifar10 --network resnet20 --out runs/resnet20b --budget
    tools/train.py --data cifar10 --network resnet20 --out runs/three --seeds 1,2,3
    tools/train.py --bench --network resnet50 --batch 16

OUT receives checkpoint.pt (for export_weights.py), last.pt (for --resume), log.json and
accuracy.png; with --seeds that is one folder seed-N for each, and seeds.json has mean and standard
deviation. Part of the training pictures is held out: its accuracy is shown after every epoch.
The test pictures are read once, at the end. Exit codes: 0 done, 64 option, 65 bad data or
checkpoint, 66 missing input, 70 training diverged, 73 cannot write, 130 or 143 interrupted (all
work is kept, --resume goes on from there).
"""

import argparse
import json
import math
import pathlib
import signal
import statistics
import sys
import time

import torch

import cifar10
import networks
import train_bench
import train_recipe
from commandline import Stop
from train_options import parse
from train_output import Progress, draw, first_line, load, percent, write

# Settings that may change between a run and its continuation: they do not belong to the recipe.
NOT_RECIPE = ("data", "out", "resume", "device", "threads", "seeds", "bench")
# Members of Run that say how far it is, besides its tensors.
COUNTERS = ("epoch", "batch", "seconds", "history", "test")


class Interrupt:
    """Remembers the first SIGINT or SIGTERM, so that a batch is finished and saved; a second one
    kills as usual."""

    def __init__(self):
        self.signal = 0
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.remember)

    def remember(self, number, _frame):
        self.signal = number
        signal.signal(number, signal.SIG_DFL)


class Run:
    """One training run: network, optimiser, and where it stands (epoch, batch of the epoch)."""

    def __init__(self, options):
        self.options = options
        self.out = pathlib.Path(options.out)
        self.device = torch.device(options.device)
        self.progress = Progress()
        self.recipe = {k: v for k, v in sorted(vars(options).items()) if k not in NOT_RECIPE}
        self.load_pictures()

        torch.manual_seed(options.seed)
        self.model = networks.build(
            options.network,
            heads=options.heads,
            shortcut=options.shortcut,
            exits=not options.no_exits,
            classes=len(cifar10.CLASSES),
        ).to(self.device, memory_format=torch.channels_last)
        self.average = train_recipe.Average(self.model, options.ema) if options.ema else None
        train_recipe.scale_branch_gradients(self.model, options.branch_gradient)
        self.teacher = self.load_teacher()
        parameters = list(self.model.parameters())
        self.optimizer = torch.optim.SGD(
            [
                {
                    "params": [p for p in parameters if p.ndim > 1],
                    "weight_decay": options.weight_decay,
                },
                {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
            ],
            lr=options.lr,
            momentum=0.9,
            nesterov=True,
        )
        self.scaler = self.make_scaler()
        self.generator = torch.Generator().manual_seed(options.seed)
        self.epoch, self.batch = 0, 0
        self.order = None  # of this epoch's pictures, while it runs
        # Sum of each exit's loss over the batches so far; on the device, so that no batch waits.
        self.sums = torch.zeros(len(options.loss_weights), dtype=torch.float64, device=self.device)
        self.seconds = 0.0  # spent in this epoch
        self.history = []
        self.test = None

    def load_pictures(self):
        root = cifar10.locate(self.options.data)
        pictures, labels = cifar10.read_train(root)
        train, heldout = cifar10.split(len(labels), self.options.holdout)
        if self.options.limit:
            train, heldout = train[: self.options.limit], heldout[: self.options.limit]
        self.test_path = root / cifar10.TEST_FILE
        self.mean, self.std = cifar10.statistics(pictures[train])
        self.heldout_index = torch.from_numpy(heldout.copy())
        self.train_set = self.to_device(pictures[train], labels[train])
        self.heldout_set = self.to_device(pictures[heldout], labels[heldout])
        # Whole batches only: batch norm cannot learn from a batch of one. Another order in every
        # epoch means other pictures left over.
        self.batches = len(train) // self.options.batch
        if self.batches == 0:
            raise Stop(
                64,
                f"--batch: wanted at most {len(train)}, as there are training pictures, "
                f"found {self.options.batch}",
            )

    def load_teacher(self):
        if not self.options.teacher:
            return None
        return train_recipe.load_teacher(
            self.options.teacher, self.device, self.mean, self.std, self.heldout_index
        )

    def to_device(self, pictures, labels):
        return torch.from_numpy(pictures).to(self.device), torch.from_numpy(labels).to(self.device)

    def make_scaler(self):
        """float16 wants its gradients scaled; bfloat16, which a CPU has, reaches as far as float32."""
        scaled = self.options.amp and self.device.type == "cuda"
        if hasattr(torch, "amp") and hasattr(torch.amp, "GradScaler"):
            return torch.amp.GradScaler(self.device.type, enabled=scaled)
        return torch.cuda.amp.GradScaler(enabled=scaled)

    def result(self):
        """The network that is judged and kept: the average of the weights where there is one."""
        return self.average.model if self.average else self.model

    # What is kept:

    def save_state(self):
        """Tensors, and everything else as JSON: older torch.load refuses a plain float unless it may
        run code from the file. The recipe and the step give back the optimiser's settings."""
        plain = {name: getattr(self, name) for name in ("recipe", *COUNTERS)}
        state = {
            "plain": json.dumps({**plain, "scaler": self.scaler.state_dict()}),
            "model": self.model.state_dict(),
            "average": self.average.model.state_dict() if self.average else {},
            "momentum": self.optimizer.state_dict()["state"],
            "generator": self.generator.get_state(),
            "order": self.order,
            "sums": self.sums,
            "mean": self.mean,
            "std": self.std,
        }
        write(self.out / "last.pt", lambda file: torch.save(state, file))

    def restore_state(self):
        path = self.out / "last.pt"
        state = load(path)
        try:
            plain = json.loads(state["plain"])
            for name, value in self.recipe.items():
                before = plain["recipe"].get(name)
                if before != value:
                    option = "--" + name.replace("_", "-")
                    raise Stop(
                        64, f"{path}: --resume wants {option} {before} as before, found {value}"
                    )
            if not torch.equal(state["mean"], self.mean) or not torch.equal(state["std"], self.std):
                raise Stop(
                    65,
                    f"{path}: --resume wants the pictures of the run it continues, "
                    f"found others in {self.options.data}",
                )
            self.model.load_state_dict(state["model"])
            if self.average:
                self.average.model.load_state_dict(state["average"])
            settings = self.optimizer.state_dict()["param_groups"]
            self.optimizer.load_state_dict({"state": state["momentum"], "param_groups": settings})
            if plain["scaler"]:  # {} when nothing was scaled
                self.scaler.load_state_dict(plain["scaler"])
            self.generator.set_state(state["generator"])
            for name in COUNTERS:
                setattr(self, name, plain[name])
            self.order = state["order"]
            self.sums.copy_(state["sums"])
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            found = f"{type(error).__name__}: {first_line(error)}"
            raise Stop(65, f"{path}: wanted the state of a run, found {found}") from error

    def save_results(self):
        options = self.options
        checkpoint = {
            "state_dict": {n: t.contiguous() for n, t in self.result().state_dict().items()},
            "mean": self.mean,
            "std": self.std,
            "val_idx": self.heldout_index,
            "name": options.network,
            "heads": options.heads,
            "shortcut": options.shortcut,
            "exits": not options.no_exits,
            "classes": cifar10.CLASSES,
            "epoch": self.epoch,
        }
        write(self.out / "checkpoint.pt", lambda file: torch.save(checkpoint, file))
        log = {
            "config": self.recipe,
            "device": self.device_name(),
            "torch": torch.__version__,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "pictures": {"train": len(self.train_set[1]), "heldout": len(self.heldout_set[1])},
            "epochs": self.history,
            "test": self.test,
        }
        write(
            self.out / "log.json",
            lambda file: file.write((json.dumps(log, indent=1) + "\n").encode()),
        )

    def device_name(self):
        return torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu"

    # The work:

    def train_epoch(self, interrupt):
        """Runs the epoch from where it stands. False when it was interrupted."""
        options, (pictures, labels) = self.options, self.train_set
        if self.order is None:
            self.order = torch.randperm(len(labels), generator=self.generator)
        steps = options.epochs * self.batches
        weights = train_recipe.loss_weights(self.epoch, options)
        self.model.train()
        began = time.monotonic()
        while self.batch < self.batches and not interrupt.signal:
            step = self.epoch * self.batches + self.batch
            for group in self.optimizer.param_groups:
                group["lr"] = train_recipe.learning_rate(step, steps, options)
            begin = self.batch * options.batch
            index = self.order[begin : begin + options.batch].to(self.device)
            inputs = cifar10.normalise(pictures[index], self.mean, self.std)
            inputs = cifar10.augment(inputs, self.generator)
            with torch.autocast(self.device.type, enabled=options.amp):
                outputs = self.model(inputs)
                with torch.no_grad():
                    teacher = self.teacher(inputs)[-1] if self.teacher else None
            losses = train_recipe.exit_losses(outputs, labels[index], options, teacher)
            total = sum(weight * loss for weight, loss in zip(weights, losses) if weight > 0)
            self.optimizer.zero_grad(set_to_none=True)
            self.scaler.scale(total).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            if self.average:
                self.average.update(self.model, step)
            self.sums += torch.stack(losses).detach().double()
            self.batch += 1
            if self.progress.due():
                mean_loss = " ".join(f"{loss:.3f}" for loss in (self.sums / self.batch).tolist())
                label = f"epoch {self.epoch + 1}/{options.epochs}"
                self.progress.bar(label, self.batch, self.batches, f"loss {mean_loss}")
        self.seconds += time.monotonic() - began
        return self.batch == self.batches

    @torch.no_grad()
    def accuracy(self, pictures, labels):
        """Percent right at each exit."""
        model = self.result().eval()
        right = torch.zeros(len(self.options.loss_weights), dtype=torch.int64)
        for begin in range(0, len(labels), 500):
            inputs = cifar10.normalise(pictures[begin : begin + 500], self.mean, self.std)
            for exit_index, logits in enumerate(model(inputs)):
                right[exit_index] += (logits.argmax(1) == labels[begin : begin + 500]).sum().cpu()
        return [round(100 * r / len(labels), 4) for r in right.tolist()]

    def finish_epoch(self):
        began = time.monotonic()
        losses = (self.sums / self.batches).tolist()
        if not all(math.isfinite(loss) for loss in losses):
            raise Stop(70, f"epoch {self.epoch + 1}: the loss is not finite; a lower --lr may help")
        accuracies = self.accuracy(*self.heldout_set)
        self.seconds += time.monotonic() - began
        self.epoch += 1
        self.history.append(
            {
                "epoch": self.epoch,
                "lr": self.optimizer.param_groups[0]["lr"],
                "train_loss": losses,
                "heldout_accuracy": accuracies,
                "seconds": round(self.seconds, 3),
            }
        )
        self.progress.line(
            f"epoch {self.epoch}/{self.options.epochs}: "
            f"loss {' '.join(f'{loss:.4f}' for loss in losses)}, "
            f"held-out {percent(accuracies)}, {self.seconds:.1f} s"
        )
        self.batch, self.order, self.seconds = 0, None, 0.0
        self.sums.zero_()
        self.save_results()
        self.save_state()

    def run(self, interrupt):
        """Trains to the end, or until interrupted. Returns the exit code."""
        while self.epoch < self.options.epochs:
            if self.train_epoch(interrupt):
                self.finish_epoch()
            if interrupt.signal and self.epoch < self.options.epochs:
                self.save_state()
                self.progress.line(
                    f"interrupted in epoch {self.epoch + 1}, batch {self.batch} of {self.batches}; "
                    f"--resume goes on from there"
                )
                return 128 + interrupt.signal
        if self.test is None:
            pictures, labels = cifar10.read(self.test_path)
            count = self.options.limit or len(labels)
            labels = labels[:count]
            self.test = {
                "pictures": len(labels),
                "accuracy": self.accuracy(*self.to_device(pictures[:count], labels)),
            }
            self.save_results()
            picture = self.out / "accuracy.png"
            draw(self.history, self.test["accuracy"], self.options, picture, self.progress)
            self.save_state()
        self.progress.line(
            f"test: {percent(self.test['accuracy'])} on {self.test['pictures']} pictures; "
            f"{self.out / 'checkpoint.pt'}"
        )
        return 0


def one_run(options, interrupt):
    """One seed, in --out. Returns (exit code, accuracy of each exit on the test pictures)."""
    out = pathlib.Path(options.out)
    found = (out / "last.pt").exists()
    if found and not options.resume:
        raise Stop(
            64, f"{out}: holds a run already; --resume continues it, another --out begins a new one"
        )
    run = Run(options)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Stop(73, f"{out}: cannot be created: {error.strerror}") from error
    if found:
        run.restore_state()
    code = run.run(interrupt)
    return code, run.test and run.test["accuracy"]


def several_runs(options, interrupt):
    """One run after the other in OUT/seed-N, and what they have in common in OUT/seeds.json."""
    out, results = pathlib.Path(options.out), {}
    for seed in options.seeds:
        own = argparse.Namespace(**vars(options))
        own.seed, own.out = seed, str(out / f"seed-{seed}")
        code, results[seed] = one_run(own, interrupt)
        if code:
            return code
    exits = list(zip(*results.values()))
    summary = {
        "test_accuracy": results,
        "mean": [round(statistics.fmean(values), 4) for values in exits],
        "standard_deviation": [round(statistics.stdev(values), 4) for values in exits],
    }
    text = json.dumps(summary, indent=1) + "\n"
    write(out / "seeds.json", lambda file: file.write(text.encode()))
    Progress().line(
        f"test, mean of {len(results)} seeds: {percent(summary['mean'])}, "
        f"standard deviation {percent(summary['standard_deviation'])}; {out / 'seeds.json'}"
    )
    return 0


def start(argv):
    options = parse(argv, __doc__)
    interrupt = Interrupt()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.backends.cudnn.benchmark = True
    if options.bench:
        return train_bench.bench(options)
    return several_runs(options, interrupt) if options.seeds else one_run(options, interrupt)[0]


def main(argv):
    try:
        return start(argv)
    except Stop as stop:
        code, message = stop.code, str(stop)
    except cifar10.MissingData as error:
        code, message = 66, str(error)
    except cifar10.BadData as error:
        code, message = 65, str(error)
    print(f"train.py: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
