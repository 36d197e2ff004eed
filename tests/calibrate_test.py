#!/usr/bin/env python3
"""How tools/calibrate.py fits and chooses: its statistics against sums over all outcomes, and that
what it promises holds on made-up pictures; and the program, which checks itself that the engine takes
the exits it computed."""

import itertools
import math
import pathlib
import subprocess
import sys
import tempfile
import unittest

try:
    import numpy as np
except ImportError as missing:
    print(f"SKIPPED: {missing}; install python3-numpy", file=sys.stderr)
    sys.exit(77)

from scene import BINARY, MODEL, SOURCE, drawn_data_set

sys.path.insert(0, str(SOURCE / "tools"))
import exit_statistics  # noqa: E402
import modelfile  # noqa: E402


class Statistics(unittest.TestCase):
    def test_upper_limit_of_nothing_found_is_the_closed_form(self):
        for n, error in ((10, 0.05), (4500, 0.0005)):
            wanted = 1 - error ** (1 / n)
            self.assertAlmostEqual(exit_statistics.upper_limit(0, n, error), wanted, places=6)

    def test_binomial_is_the_sum(self):
        for count in range(6):
            wanted = sum(math.comb(7, k) * 0.3**k * 0.7 ** (7 - k) for k in range(count + 1))
            found = exit_statistics.binomial_at_most(count, 7, 0.3)
            self.assertAlmostEqual(found, wanted, places=12)

    def test_loss_is_the_sum_over_all_outcomes(self):
        n, losing, gaining = 5, 0.25, 0.1
        chance = {1: losing, -1: gaining, 0: 1 - losing - gaining}
        for total in range(-n - 1, n + 1):
            wanted = sum(
                math.prod(chance[one] for one in all_of)
                for all_of in itertools.product(chance, repeat=n)
                if sum(all_of) <= total
            )
            found = exit_statistics.loss_at_most(total, n, losing, gaining)
            self.assertAlmostEqual(found, wanted, places=9)

    def test_p_values_are_rarely_small_where_the_loss_is_just_too_large(self):
        n, most, level, repeats = 400, 0.02, 0.1, 600
        random = np.random.RandomState(5)
        rejected = 0
        for _ in range(repeats):
            losses, gains, _ = random.multinomial(n, [0.04, 0.02, 0.94])
            rejected += exit_statistics.p_value(int(losses), int(gains), n, most) <= level
        # Three standard deviations over the level.
        self.assertLessEqual(rejected / repeats, level + 3 * math.sqrt(level * 0.9 / repeats))
        self.assertGreater(rejected, 0)

    def test_the_temperature_that_made_the_logits_is_found(self):
        random = np.random.RandomState(2)
        logits = random.normal(0, 2, (20000, 5))
        chances = exit_statistics.softmax(logits)
        labels = (chances.cumsum(axis=1) < random.uniform(size=(20000, 1))).sum(axis=1)
        self.assertAlmostEqual(exit_statistics.fit_temperature(3 * logits, labels), 3, delta=0.1)


class Choosing(unittest.TestCase):
    def test_doubts(self):
        probabilities = np.array([[[0.5, 0.2, 0.3], [0.1, 0.8, 0.1], [0.2, 0.7, 0.1]]])
        said = probabilities.argmax(axis=2)
        entropy = -sum(p * math.log(p) for p in (0.5, 0.2, 0.3)) / math.log(3)
        wanted = {
            "entropy": [entropy],
            "probability": [0.5, 0.2, 0.3],
            "margin": [0.8, 0.3, 0.5],
            "patience": [1, 1, 0.5],
        }
        for criterion in modelfile.CRITERIA:
            found = exit_statistics.doubts_of(criterion, probabilities, said)[0]
            np.testing.assert_allclose(found[: len(wanted[criterion])], wanted[criterion])

    def test_a_doubt_at_its_threshold_is_not_sure_and_the_last_exit_always_answers(self):
        doubts = np.array([[0.5, 0.1, 1.0], [0.4, 0.1, 1.0], [0.9, 0.9, 1.0]])
        self.assertEqual(exit_statistics.exits_taken(doubts, (0.5, 0.2)).tolist(), [1, 0, 2])

    def test_the_path_goes_from_careful_to_bold(self):
        random = np.random.RandomState(3)
        doubts = random.uniform(size=(200, 3))
        loss = np.stack([doubts[:, 0] * 0.3, doubts[:, 1] * 0.1, np.zeros(200)], axis=1)
        costs = np.array([0.3, 0.6, 1.0])
        path = exit_statistics.careful_to_bold(doubts, loss, costs)
        taken = [exit_statistics.exits_taken(doubts, thresholds) for thresholds in path]
        means = [costs[one].mean() for one in taken]
        lost = [loss[np.arange(200), one].mean() for one in taken]
        self.assertGreater(len(path), 10)
        self.assertEqual(means, sorted(means, reverse=True))
        self.assertEqual(lost, sorted(lost))

    def test_the_first_that_fails_ends_the_path(self):
        n = 4000
        doubts = np.zeros((n, 2))
        doubts[:, 0] = np.arange(n) / n
        right = np.ones((n, 2), bool)
        right[1000:2000, 0] = False  # between a quarter and a half every early answer is wrong
        path = [(0.1,), (0.2,), (0.4,), (0.22,)]
        self.assertEqual(exit_statistics.choose(1, path, doubts, right, 0.9).thresholds, (0.2,))
        # Nothing can be proved to lose less than nothing.
        chosen = exit_statistics.choose(0, path, doubts, right, 0.9)
        self.assertEqual((chosen.thresholds, chosen.losses, chosen.p), ((0.0,), 0, 0.0))


class Program(unittest.TestCase):
    """On drawn pictures, which the committed network answers as it likes."""

    @classmethod
    def setUpClass(cls):
        try:
            import cifar10
        except ImportError as missing:
            raise unittest.SkipTest(f"{missing}; install python3-torch") from None
        cls.folder = tempfile.TemporaryDirectory()
        cls.base = pathlib.Path(cls.folder.name)
        for name in (*cifar10.TRAIN_FILES, cifar10.TEST_FILE):
            (cls.base / name).write_bytes(drawn_data_set(40))

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def calibrate(self, *more):
        out = self.base / "out.safetensors"
        command = [sys.executable, SOURCE / "tools" / "calibrate.py", MODEL, "--data", self.base]
        command += ["--offramp", BINARY, "--holdout", "100", "--explore", "40", "-o", out, *more]
        return out, subprocess.run(list(map(str, command)), capture_output=True, text=True)

    def test_the_default_is_what_the_model_does_unasked(self):
        before = modelfile.read_model(MODEL)
        out, done = self.calibrate("--targets", "0,60", "--default", "60", "--test")
        self.assertEqual(done.returncode, 0, done.stderr)
        after = modelfile.read_model(out)
        none, most = after.targets()
        self.assertEqual([none["name"], most["name"]], ["0", "60"])
        self.assertEqual(after.rules(), most["rules"])
        self.assertLess(most["heldout"]["cost"], none["heldout"]["cost"])
        self.assertNotEqual(before.hash(), after.hash())
        out, done = self.calibrate("--targets", "0,60")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(modelfile.read_model(out).rules(), before.rules())

    def test_what_it_refuses(self):
        empty = self.base / "empty"
        empty.mkdir()
        for code, found, more in (
            (64, "--default: wanted one of 0,60, found 1", ["--targets", "0,60", "--default", "1"]),
            (64, "--default: wanted a criterion that holds over several nodes, found patience",
             ["--default", "1", "--criterion", "patience"]),
            (64, "--explore: wanted fewer than 100, found 100", ["--explore", "100"]),
            (64, "--cost: wanted 3 rising numbers, found 3,2,1", ["--cost", "3,2,1"]),
            (66, f"{empty}/data_batch_1.bin: wanted a file", ["--data", empty]),
            (73, "cannot be written", ["-o", empty]),
        ):
            with self.subTest(found):
                _, done = self.calibrate(*more)
                self.assertEqual((done.returncode, done.stderr.count("\n")), (code, 1), done.stderr)
                self.assertIn(found, done.stderr)


class CommittedTargets(unittest.TestCase):
    def test_the_weights_hold_the_table_in_order_of_cost(self):
        targets = modelfile.read_model(MODEL).targets()
        self.assertEqual([one["name"] for one in targets], ["0", "0.1", "0.3", "0.5", "1"])
        costs = [one["heldout"]["cost"] for one in targets]
        self.assertEqual(costs, sorted(costs, reverse=True))
        for one in targets:
            self.assertLessEqual(one["heldout"]["loss"], one["points"])


if __name__ == "__main__":
    unittest.main()
