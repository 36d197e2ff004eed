#!/usr/bin/env python3
"""Device, edge and cloud as three processes decide, bit for bit, what one process decides.

`offramp run` through two nodes and `offramp eval` write their decisions as CSV with hexadecimal
floats; the two files must be equal byte by byte and every status ok, at thresholds from "everything
goes to the cloud" to "nothing leaves the device".

OFFRAMP_DATA=DIR, where DIR holds cifar-10-batches-bin, takes those pictures, all of them or the
first OFFRAMP_DATA_LIMIT; otherwise they are drawn here. All processes inherit OFFRAMP_ISA: equality
holds among tiers that compute with the same instructions.
"""

import collections
import csv
import os
import pathlib
import subprocess
import tempfile
import unittest
import unittest.mock

from scene import BINARY, MODEL, QuietNode, draw_data_set, make_keys, require

THRESHOLDS = ("0", "0.1", "0.3", "0.6", "1")
CODECS = (("--codec=f16",), ("--codec=u8",), ("--codec=u8c", "--lz4"))
CODECS_THRESHOLD, CODECS_LIMIT = "0.1", "1000"
BATCHES, BATCHES_LIMIT = ("8", "32"), "3000"
EXITS = 3
DRAWN = 500


class NetworkEquality(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        make_keys(self.folder)
        data = os.environ.get("OFFRAMP_DATA")
        self.options = ["--model", MODEL, "--data", data or self.folder]
        if not data:
            draw_data_set(self.folder, DRAWN)
        elif os.environ.get("OFFRAMP_DATA_LIMIT"):
            self.options += ["--limit", os.environ["OFFRAMP_DATA_LIMIT"]]

    def offramp(self, command, threshold, *more):
        decisions = self.folder / f"{command}.csv"
        done = subprocess.run(
            [BINARY, command, *self.options, "--thresholds", threshold, "--json"]
            + ["--decisions", decisions, *more],
            capture_output=True,
            text=True,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        return decisions.read_bytes()

    def through_nodes(self, threshold, codec=(), batch="1", window="8"):
        batches = ["--batch", batch, *(["--batch-delay", "2ms"] if batch != "1" else [])]
        with QuietNode(self.folder, "cloud", threshold, more=batches) as cloud:
            with QuietNode(self.folder, "edge", threshold, cloud, [*batches, *codec]) as edge:
                patient = ["--window", window, "--deadline", "300s", "--wait", "60s"]
                keys = ["--keys", self.folder / "keys" / "device"]
                following = ["--next", edge.address, *keys, *codec]
                return self.offramp("run", threshold, *following, *patient)

    def test_decisions_are_those_of_one_process(self):
        taken = collections.Counter()
        print(f"{'T':>5} {'pictures':>9}" + "".join(f"{f'exit {e}':>8}" for e in range(EXITS)))
        for threshold in THRESHOLDS:
            with self.subTest(threshold=threshold):
                networked = self.through_nodes(threshold)
                rows = list(csv.DictReader(networked.decode().splitlines()))
                self.assertEqual({row["status"] for row in rows}, {"ok"})
                # Not assertEqual on the bytes, which would print them all.
                self.assertTrue(networked == self.offramp("eval", threshold), "decisions differ")
                counts = collections.Counter(int(row["exit"]) for row in rows)
                taken += counts
                shares = "".join(f"{counts[e]:8d}" for e in range(EXITS))
                print(f"{threshold:>5} {len(rows):9d}{shares}", flush=True)
        # Exits that are never taken would make the comparison empty.
        self.assertEqual(sorted(taken), list(range(EXITS)))

    def test_with_each_codec_they_are_those_of_eval_with_it(self):
        if "--limit" not in self.options and os.environ.get("OFFRAMP_DATA"):
            self.options += ["--limit", CODECS_LIMIT]
        seen = {self.offramp("eval", CODECS_THRESHOLD)}
        for codec in CODECS:
            with self.subTest(codec=codec):
                networked = self.through_nodes(CODECS_THRESHOLD, codec)
                rows = list(csv.DictReader(networked.decode().splitlines()))
                self.assertEqual({row["status"] for row in rows}, {"ok"})
                self.assertTrue(
                    networked == self.offramp("eval", CODECS_THRESHOLD, *codec), "decisions differ"
                )
                # A codec that loses nothing, or the same as another, would not have been used.
                self.assertNotIn(networked, seen)
                seen.add(networked)

    def test_in_batches_they_are_those_of_one_process(self):
        """With one algorithm everywhere: what is chosen may differ between sizes of batches."""
        if "--limit" not in self.options and os.environ.get("OFFRAMP_DATA"):
            self.options += ["--limit", BATCHES_LIMIT]
        with unittest.mock.patch.dict(os.environ, {"OFFRAMP_CONV": "winograd4"}):
            expected = self.offramp("eval", CODECS_THRESHOLD)
            for batch in BATCHES:
                with self.subTest(batch=batch):
                    networked = self.through_nodes(CODECS_THRESHOLD, batch=batch, window="64")
                    rows = list(csv.DictReader(networked.decode().splitlines()))
                    self.assertEqual({row["status"] for row in rows}, {"ok"})
                    self.assertTrue(networked == expected, "decisions differ")


if __name__ == "__main__":
    require(BINARY)
    unittest.main()
