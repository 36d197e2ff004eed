#!/usr/bin/env python3
"""tools/train.py on made-up pictures in CIFAR-10's layout: it learns, resumes exactly, refuses bad
input."""

import argparse
import contextlib
import io
import json
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import unittest
import unittest.mock

try:
    import numpy as np
    import torch
except ImportError as missing:
    print(f"train_test: SKIPPED, {missing.name} is not installed", file=sys.stderr)
    sys.exit(77)  # what CTest's SKIP_RETURN_CODE is set to

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import cifar10  # noqa: E402
import networks  # noqa: E402
import train  # noqa: E402
import train_bench  # noqa: E402
import train_options  # noqa: E402
import train_recipe  # noqa: E402
from train_output import load  # noqa: E402

RECORDS = 40  # a file; six files


def write_data(folder):
    """Noise around one colour per class: easy to learn, and no two pictures the same."""
    random = np.random.RandomState(1)
    colours = random.randint(40, 216, (len(cifar10.CLASSES), 3))
    folder.mkdir(parents=True)
    for name in (*cifar10.TRAIN_FILES, cifar10.TEST_FILE):
        labels = random.randint(0, len(cifar10.CLASSES), RECORDS)
        pictures = colours[labels][:, :, None] + random.randint(-30, 31, (RECORDS, 3, 1024))
        records = np.concatenate([labels[:, None], pictures.reshape(RECORDS, -1)], axis=1)
        records.astype(np.uint8).tofile(folder / name)


def quietly(*arguments):
    """(exit code, what went to stderr) of train.py in this process."""
    stderr = io.StringIO()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with contextlib.redirect_stderr(stderr):
            code = train.main([str(argument) for argument in arguments])
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return code, stderr.getvalue()


class TrainTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.base = pathlib.Path(cls.folder.name)
        cls.data = cls.base / "data"
        write_data(cls.data / "cifar-10-batches-bin")
        torch.set_num_threads(1)

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def options(self, out, *more):
        return [
            *("--data", self.data, "--out", self.base / out, "--device", "cpu", "--threads", 1),
            *("--network", "lenet", "--holdout", 20, "--batch", 16, "--lr", 0.05, "--epochs", 4),
            *more,
        ]

    # What it produces

    def test_learns_and_writes_everything(self):
        resnet = ["--network", "resnet20", "--epochs", 6]
        code, text = quietly(*self.options("learns", *resnet))
        self.assertEqual(code, 0, text)
        log = json.loads((self.base / "learns/log.json").read_text())
        first, last = log["epochs"][0], log["epochs"][-1]
        self.assertEqual(len(log["epochs"]), 6)
        for index in range(3):
            self.assertLess(last["train_loss"][index], 0.8 * first["train_loss"][index])
        self.assertGreater(log["test"]["accuracy"][-1], 30)  # 10 % by chance
        self.assertEqual(log["test"]["pictures"], RECORDS)
        self.assertEqual((self.base / "learns/accuracy.png").read_bytes()[:4], b"\x89PNG")
        self.assertEqual(len(re.findall(r"^epoch \d+/6: ", text, re.M)), 6)
        self.assertNotIn("\r", text)

    def test_half_precision_is_near_single_and_is_kept_as_single(self):
        short = ["--network", "resnet20", "--epochs", 1, "--limit", 32, "--lr", 1e-3]
        losses = {}
        for name, more in {"single": [], "half": ["--amp"]}.items():
            code, text = quietly(*self.options(name, *short, *more))
            self.assertEqual(code, 0, text)
            log = json.loads((self.base / name / "log.json").read_text())
            losses[name] = np.array(log["epochs"][0]["train_loss"])
        self.assertFalse((losses["half"] == losses["single"]).any())
        np.testing.assert_allclose(losses["half"], losses["single"], rtol=0.02)
        weights = load(self.base / "half/checkpoint.pt")["state_dict"].values()
        kinds = {tensor.dtype for tensor in weights if tensor.is_floating_point()}
        self.assertEqual(kinds, {torch.float32})

    def test_checkpoint_describes_the_network(self):
        options = ["--network", "resnet20", "--heads", "classic", "--shortcut", "pad"]
        code, text = quietly(*self.options("card", *options, "--epochs", 1, "--limit", 16))
        self.assertEqual(code, 0, text)
        card = load(self.base / "card/checkpoint.pt")
        self.assertEqual(
            (card["name"], card["heads"], card["shortcut"], card["exits"], card["classes"]),
            ("resnet20", "classic", "pad", True, cifar10.CLASSES),
        )
        model = networks.build(card["name"], heads=card["heads"], shortcut=card["shortcut"])
        model.load_state_dict(card["state_dict"])
        total = 5 * RECORDS
        train_index, heldout = cifar10.split(total, 20)
        self.assertEqual(card["val_idx"].tolist(), heldout[:16].tolist())
        self.assertEqual(sorted([*train_index, *heldout]), list(range(total)))
        pictures, _ = cifar10.read_train(cifar10.locate(self.data))
        values = pictures[train_index[:16]].astype(np.float64) / 255
        np.testing.assert_allclose(card["mean"].numpy(), values.mean((0, 2, 3)), rtol=1e-6)
        np.testing.assert_allclose(card["std"].numpy(), values.std((0, 2, 3)), rtol=1e-6)

    def test_a_network_without_exits_is_what_remains_without_early_heads(self):
        options = ["--network", "resnet20", "--epochs", 1, "--limit", 32]
        for name, more in {"alone": ["--no-exits"], "third": ["--loss-weights", "0,0,1"]}.items():
            code, text = quietly(*self.options(name, *options, *more))
            self.assertEqual(code, 0, text)
        card = load(self.base / "alone/checkpoint.pt")
        self.assertFalse(card["exits"])
        model = networks.build("resnet20", exits=False)
        model.load_state_dict(card["state_dict"])
        log, last = (
            json.loads((self.base / name / "log.json").read_text()) for name in ("alone", "third")
        )
        self.assertEqual(log["config"]["loss_weights"], [1.0])
        # The trunk begins alike and sees the same batches: only the head's own start is another.
        self.assertEqual(len(log["test"]["accuracy"]), 1)
        np.testing.assert_allclose(
            log["epochs"][0]["train_loss"][0], last["epochs"][0]["train_loss"][2], rtol=0.2
        )
        self.refuses(
            64,
            "--loss-weights: wanted 1 number",
            *self.options("refused", *options, "--no-exits", "--loss-weights", "0,0,1"),
        )

    def test_what_is_kept_is_the_average(self):
        self.assertEqual(quietly(*self.options("average"))[0], 0)
        self.assertEqual(quietly(*self.options("plain", "--ema", 0))[0], 0)
        kept = {name: load(self.base / name / "checkpoint.pt") for name in ("average", "plain")}
        last = {name: load(self.base / name / "last.pt") for name in ("average", "plain")}
        for name, value in last["plain"]["model"].items():
            self.assertTrue(torch.equal(last["average"]["model"][name], value), name)
            self.assertTrue(torch.equal(kept["plain"]["state_dict"][name], value), name)
            self.assertTrue(
                torch.equal(kept["average"]["state_dict"][name], last["average"]["average"][name])
            )
        name = "stage1.0.weight"
        self.assertFalse(torch.equal(*(card["state_dict"][name] for card in kept.values())))

    def test_several_seeds_and_a_teacher(self):
        teacher = self.base / "teacher/checkpoint.pt"
        self.assertEqual(quietly(*self.options("teacher", "--network", "alexnet"))[0], 0)
        options = self.options("seeds", "--seeds", "3,5", "--teacher", teacher)
        code, text = quietly(*options)
        self.assertEqual(code, 0, text)
        summary = json.loads((self.base / "seeds/seeds.json").read_text())
        self.assertEqual(list(summary["test_accuracy"]), ["3", "5"])
        logs = [json.loads((self.base / f"seeds/seed-{n}/log.json").read_text()) for n in (3, 5)]
        self.assertEqual([log["config"]["seed"] for log in logs], [3, 5])
        tests = np.array([log["test"]["accuracy"] for log in logs])
        np.testing.assert_allclose(summary["mean"], tests.mean(0), atol=1e-3)
        np.testing.assert_allclose(summary["standard_deviation"], tests.std(0, ddof=1), atol=1e-3)
        self.assertIn("mean of 2 seeds", text.splitlines()[-1])
        # Taught, it is another network; resumed, all is there already.
        untaught = self.options("untaught", "--seed", 3)
        self.assertEqual(quietly(*untaught)[0], 0)
        one, other = (
            load(self.base / name / "checkpoint.pt")["state_dict"]["stage1.0.weight"]
            for name in ("untaught", "seeds/seed-3")
        )
        self.assertFalse(torch.equal(one, other))
        self.assertEqual(quietly(*options, "--resume")[0], 0)
        self.refuses(
            65,
            "trained on the same pictures",
            *self.options("stranger", "--teacher", teacher, "--holdout", 30),
        )
        self.refuses(65, "wanted a checkpoint", *self.options("none", "--teacher", "/dev/null"))

    def test_budget_is_a_preset_that_gives_way(self):
        def found(*more):
            options = train_options.parse(
                [str(option) for option in ("--data", "a", "--out", "b", *more)], ""
            )
            return options.epochs, options.trunk_epochs

        self.assertEqual(found(), (200, 40))
        self.assertEqual(found("--budget"), (80, 16))
        self.assertEqual(found("--budget", "--epochs", 90), (90, 16))
        self.assertEqual(found("--epochs", 4), (4, 0))

    # Going on after an interruption

    def assert_same_run(self, one, other):
        one, other = (load(self.base / name / "last.pt") for name in (one, other))
        for kind in ("model", "average"):
            self.assertEqual(one[kind].keys(), other[kind].keys())
            for name, value in one[kind].items():
                self.assertTrue(torch.equal(value, other[kind][name]), name)
        states = [run["momentum"] for run in (one, other)]
        self.assertEqual(states[0].keys(), states[1].keys())
        for key, value in states[0].items():
            self.assertTrue(
                torch.equal(value["momentum_buffer"], states[1][key]["momentum_buffer"])
            )
        plain = [json.loads(run["plain"]) for run in (one, other)]
        for entry in plain[0]["history"] + plain[1]["history"]:
            del entry["seconds"]
        self.assertEqual(*plain)

    def test_resumed_in_mid_epoch_equals_uninterrupted(self):
        """Stopped by a signal to itself in the second epoch, as Ctrl-C does."""
        self.assertEqual(quietly(*self.options("whole"))[0], 0)
        batches = []
        original = cifar10.augment

        def augment(batch, generator):
            batches.append(batch)
            if len(batches) == 15:  # 11 batches an epoch
                signal.raise_signal(signal.SIGINT)
            return original(batch, generator)

        cifar10.augment = augment
        try:
            code, text = quietly(*self.options("parts"))
        finally:
            cifar10.augment = original
        self.assertEqual(code, 130, text)
        self.assertIn("interrupted in epoch 2, batch 4 of 11", text)
        self.assertEqual(quietly(*self.options("parts", "--resume"))[0], 0)
        self.assert_same_run("whole", "parts")

    def test_a_killed_run_goes_on_from_its_last_epoch(self):
        """kill -9 loses the epoch it hits, nothing else. The child dies in batch 25 of its 44."""
        program = (
            "import os, sys; sys.path.insert(0, sys.argv.pop(1)); import cifar10, train\n"
            "count, original = [], cifar10.augment\n"
            "def augment(batch, generator):\n"
            "    count.append(1)\n"
            "    if len(count) == 25: os.kill(os.getpid(), 9)\n"
            "    return original(batch, generator)\n"
            "cifar10.augment = augment; train.main(sys.argv[1:])\n"
        )
        options = [str(option) for option in self.options("killed")]
        command = [sys.executable, "-c", program, str(ROOT / "tools"), *options]
        child = subprocess.run(command, capture_output=True, timeout=120)
        self.assertEqual(child.returncode, -9, child.stderr)
        plain = json.loads(load(self.base / "killed/last.pt")["plain"])
        self.assertEqual((plain["epoch"], plain["batch"]), (2, 0))
        self.assertEqual(quietly(*options, "--resume")[0], 0)
        self.assertEqual(quietly(*self.options("unkilled"))[0], 0)
        self.assert_same_run("killed", "unkilled")

    def test_resume_begins_finishes_and_does_not_repeat(self):
        self.assertEqual(quietly(*self.options("again", "--epochs", 1, "--resume"))[0], 0)
        before = (self.base / "again/checkpoint.pt").read_bytes()
        code, text = quietly(*self.options("again", "--epochs", 1, "--resume"))
        self.assertEqual((code, text.count("\n")), (0, 1), text)
        self.assertEqual((self.base / "again/checkpoint.pt").read_bytes(), before)
        self.refuses(64, "holds a run already", *self.options("again", "--epochs", 1))
        self.refuses(
            64,
            "--lr 0.05 as before, found 0.1",
            *self.options("again", "--epochs", 1, "--resume", "--lr", 0.1),
        )
        (self.base / "again/last.pt").write_bytes(b"not a checkpoint")
        self.refuses(65, "wanted a checkpoint", *self.options("again", "--epochs", 1, "--resume"))

    def test_bench_measures_both_steps(self):
        stdout = io.StringIO()
        with unittest.mock.patch.object(train_bench, "SECONDS", 0), contextlib.redirect_stdout(
            stdout
        ):
            code, text = quietly("--bench", "--network", "lenet", "--batch", 2, "--device", "cpu")
        self.assertEqual(code, 0, text)
        report = json.loads(stdout.getvalue())
        self.assertEqual((report["network"], report["batch"]), ("lenet", 2))
        self.assertGreater(report["ms"]["cpu"]["train"], 0)
        self.assertGreater(report["ms"]["cpu"]["infer"], 0)
        self.assertIn("pictures a second", text)

    # Bad input: one line, the documented code

    def refuses(self, code, message, *arguments):
        found, text = quietly(*arguments)
        self.assertEqual(found, code, text)
        self.assertIn(message, text)
        self.assertEqual(text.count("\n"), 1, text)

    def test_refuses_bad_options(self):
        cases = {
            "--network": ("resnet18", "wanted one of resnet20"),
            "--heads": ("weak", "wanted one of pyramid, strong, classic"),
            "--shortcut": ("none", "wanted one of conv, pad"),
            "--loss-weights": ("0.5,0.7,1", "wanted 2 numbers"),
            "--lr": ("nan", "wanted a number above 0"),
            "--batch": ("181", "wanted at most 180"),
            "--epochs": ("0", "at least 1"),
            "--trunk-epochs": ("4", "fewer than the 4"),
            "--seeds": ("1,1", "two different numbers"),
            "--ema": ("1", "at most 0.99999"),
            "--colour": ("red", "unrecognized arguments"),
        }
        for option, (value, message) in cases.items():
            with self.subTest(option):
                self.refuses(64, message, *self.options("refused", option, value))
        self.refuses(64, "wanted --data DIR", "--out", self.base / "refused")
        self.refuses(64, "or --bench", *self.options("refused", "--network", "resnet50"))
        self.assertFalse((self.base / "refused").exists())

    def test_refuses_bad_data(self):
        def with_data(folder, *more):
            return [*self.options("refused", *more), "--data", folder]

        self.refuses(66, "wanted a folder", *with_data(self.base / "nowhere"))
        empty = self.base / "empty"
        empty.mkdir()
        self.refuses(66, "data_batch_1.bin", *with_data(empty))
        broken = self.base / "broken"
        write_data(broken)
        with open(broken / "test_batch.bin", "ab") as file:
            file.write(b"x")
        self.refuses(65, "test_batch.bin: wanted a multiple of 3073", *with_data(broken))
        odd = self.base / "odd"
        write_data(odd)
        with open(odd / "data_batch_2.bin", "r+b") as file:
            file.seek(3 * cifar10.RECORD_BYTES)
            file.write(b"\x0a")
        self.refuses(65, "labels 0 to 9, found 10 in record 3", *with_data(odd))
        self.refuses(65, "held-out pictures", *self.options("refused", "--holdout", 200))
        self.refuses(
            73, "cannot be created", *self.options("data/cifar-10-batches-bin/test_batch.bin")
        )


class LossTest(unittest.TestCase):
    def test_distillation_is_what_its_equation_says(self):
        random = np.random.RandomState(5)
        early, last = random.randn(2, 6, 10)
        labels = random.randint(0, 10, 6)
        teacher = random.randn(6, 10)
        options = argparse.Namespace(distill_alpha=0.3, distill_temperature=2.0)
        outputs = [torch.from_numpy(early).float(), torch.from_numpy(last).float()]
        labels_tensor = torch.from_numpy(labels)

        def softmax(x):
            return np.exp(x) / np.exp(x).sum(1, keepdims=True)

        def cross_entropy(x):
            return -np.log(softmax(x)[np.arange(6), labels]).mean()

        def distance(student, *teachers):
            q = softmax(student / 2)
            each = [(softmax(t / 2) * np.log(softmax(t / 2) / q)).sum(1).mean() for t in teachers]
            return 4 * np.mean(each)

        def check(wanted, **more):
            losses = train_recipe.exit_losses(outputs, labels_tensor, options, **more)
            np.testing.assert_allclose([loss.item() for loss in losses], wanted, rtol=1e-5)

        check([0.7 * cross_entropy(early) + 0.3 * distance(early, last), cross_entropy(last)])
        check(
            [
                0.7 * cross_entropy(early) + 0.3 * distance(early, teacher, last),
                0.7 * cross_entropy(last) + 0.3 * distance(last, teacher),
            ],
            teacher=torch.from_numpy(teacher),
        )
        options.distill_alpha = 0
        check([cross_entropy(early), cross_entropy(last)], teacher=torch.from_numpy(teacher))

    def test_early_exits_do_not_move_the_last_one(self):
        """What they learn from the last exit must not come back to it."""
        options = argparse.Namespace(distill_alpha=0.5, distill_temperature=2.0)
        early, last = (torch.randn(4, 10, requires_grad=True) for _ in range(2))
        labels = torch.zeros(4, dtype=torch.int64)
        train_recipe.exit_losses([early, last], labels, options)[0].backward()
        self.assertIsNotNone(early.grad)
        self.assertIsNone(last.grad)

    def test_the_trunk_is_trained_first(self):
        # The trunk is trained even where the recipe gives its exit nothing.
        for recipe in ([0.5, 0.7, 1.0], [0.5, 0.7, 0.0]):
            options = argparse.Namespace(trunk_epochs=2, loss_weights=recipe)
            weights = [train_recipe.loss_weights(epoch, options) for epoch in range(3)]
            self.assertEqual(weights, [[0, 0, 1], [0, 0, 1], recipe])

    def test_branch_gradients_are_scaled_in_the_trunk_alone(self):
        def gradients(scale):
            torch.manual_seed(1)
            model = networks.build("lenet")
            train_recipe.scale_branch_gradients(model, scale)
            model(torch.ones(2, 3, 32, 32))[0].sum().backward()
            return model.stage1[0].weight.grad, model.exit1[0].weight.grad

        trunk, head = gradients(1)
        scaled_trunk, scaled_head = gradients(0.25)
        torch.testing.assert_close(scaled_trunk, 0.25 * trunk)
        torch.testing.assert_close(scaled_head, head)

    def test_average_follows_weights_and_statistics(self):
        model = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1), torch.nn.BatchNorm2d(1))
        average = train_recipe.Average(model, 0.5)
        mean = {name: value.clone() for name, value in model.state_dict().items()}
        for step in range(20):
            with torch.no_grad():
                model[0].weight.add_(1.0)
            model(torch.randn(2, 1, 3, 3))
            average.update(model, step)
            decay = min(0.5, (1 + step) / (10 + step))
            for name, value in model.state_dict().items():
                if value.is_floating_point():
                    mean[name] = decay * mean[name] + (1 - decay) * value
        kept = average.model.state_dict()
        self.assertEqual(kept["1.num_batches_tracked"], 20)
        for name in ("0.weight", "1.running_mean", "1.running_var"):
            torch.testing.assert_close(kept[name], mean[name])

    def test_learning_rate_rises_then_falls_to_zero(self):
        for schedule, peak in (("onecycle", 30), ("cosine", 0)):
            options = argparse.Namespace(lr=0.2, schedule=schedule)
            rates = [train_recipe.learning_rate(step, 100, options) for step in range(100)]
            self.assertEqual(rates.index(max(rates)), peak)
            self.assertAlmostEqual(max(rates), 0.2)
            self.assertEqual(rates, sorted(rates[:peak]) + sorted(rates[peak:], reverse=True))
            self.assertLess(rates[-1], 0.001)


class AugmentTest(unittest.TestCase):
    def test_every_picture_is_a_shifted_and_perhaps_flipped_copy(self):
        batch = torch.arange(1.0, 1 + 64 * 3 * 32 * 32).reshape(64, 3, 32, 32)
        result = cifar10.augment(batch, torch.Generator().manual_seed(3))
        padded = torch.nn.functional.pad(batch, (4, 4, 4, 4))
        flips = 0
        for before, after in zip(padded, result):
            crops = [
                (flip, crop.flip(2) if flip else crop)
                for flip in (0, 1)
                for y in range(9)
                for crop in (before[:, y : y + 32, x : x + 32] for x in range(9))
            ]
            found = [flip for flip, crop in crops if torch.equal(crop, after)]
            self.assertEqual(len(found), 1)
            flips += found[0]
        self.assertTrue(16 < flips < 48, flips)


class NetworksTest(unittest.TestCase):
    def test_traceable_with_one_output_per_exit(self):
        variants = [
            (name, "pyramid", "conv") for name in ("resnet20", "resnet32", "lenet", "alexnet")
        ]
        variants += [("resnet20", "strong", "conv"), ("resnet20", "classic", "pad")]
        x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(4))
        variants += [("resnet50", "pyramid", "conv")]  # wherever its pictures are no smaller
        for name, heads, shortcut in variants:
            for exits in (True, False):
                with self.subTest(name=name, heads=heads, shortcut=shortcut, exits=exits):
                    model = networks.build(name, heads=heads, shortcut=shortcut, exits=exits).eval()
                    outputs = model(x)
                    self.assertEqual(len(outputs), networks.exit_count(name, exits))
                    traced = torch.fx.symbolic_trace(model)(x)
                    for one, other in zip(outputs, traced):
                        self.assertEqual(one.shape, (2, 10))
                        self.assertTrue(torch.equal(one, other))

    def test_depth_counts_the_weighted_layers(self):
        for name, depth in networks.RESNET_DEPTHS.items():
            model = networks.build(name, exits=False)
            layers = [
                m for m in model.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))
            ]
            self.assertEqual(len(layers) - 2, depth)  # less the two shortcut convolutions

    def test_resnet50_is_the_one_that_is_known(self):
        known = 25_557_032  # weights of torchvision's
        module = networks.build("resnet50", exits=False, classes=1000)
        self.assertEqual(sum(p.numel() for p in module.parameters()), known)
        self.assertEqual(networks.input_shape("resnet50"), (3, 224, 224))

    def test_classic_heads_have_the_sizes_of_the_prototype(self):
        model = networks.build("resnet20", heads="classic")
        self.assertEqual(model.exit1.conv.weight.shape, (16, 16, 3, 3))
        self.assertEqual(model.exit1.fc.in_features, 14400)
        self.assertEqual(model.exit2.fc.in_features, 8192)

    def test_unknown_names(self):
        for bad in ({"name": "resnet21"}, {"name": "resnet20", "heads": "x"}):
            with self.assertRaises(ValueError):
                networks.build(**bad)


if __name__ == "__main__":
    unittest.main()
