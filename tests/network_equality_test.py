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
import sys
import tempfile
import time
import unittest
import unittest.mock

from scene import draw_data_set, make_keys

SOURCE = pathlib.Path(__file__).resolve().parent.parent
BINARY = os.environ.get("OFFRAMP_BINARY", str(SOURCE / "build" / "release" / "offramp"))
MODEL = SOURCE / "weights" / "resnet20b.safetensors"
THRESHOLDS = ("0", "0.1", "0.3", "0.6", "1")
CODECS = (("--codec=f16",), ("--codec=u8",), ("--codec=u8c", "--lz4"))
CODECS_THRESHOLD, CODECS_LIMIT = "0.1", "1000"
BATCHES, BATCHES_LIMIT = ("8", "32"), "3000"
EXITS = 3
DRAWN = 500
START_SECONDS = 60


class Node:
    """A tier beside the test, which ends with exit code 0 on SIGTERM."""

    def __init__(self, folder, tier, threshold, following=None, codec=(), batch="1"):
        port_file = folder / f"{tier}.addr"
        port_file.unlink(missing_ok=True)
        command = [BINARY, "node", "--tier", tier, "--listen", "127.0.0.1:0", "--quiet"]
        command += ["--model", MODEL, "--thresholds", threshold, "--port-file", port_file]
        command += ["--keys", folder / "keys" / tier, "--batch", batch]
        if batch != "1":
            command += ["--batch-delay", "2ms"]
        if following:
            command += ["--next", following.address, *codec]
        self.tier = tier
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        end = time.monotonic() + START_SECONDS
        while not port_file.exists():
            if self.process.poll() is not None or time.monotonic() > end:
                self.process.kill()
                raise RuntimeError(f"{tier} did not start: {self.process.communicate()[1]}")
            time.sleep(0.01)
        self.address = port_file.read_text().strip()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self.process.terminate()
        try:
            said = self.process.communicate(timeout=30)[1]
        except subprocess.TimeoutExpired:
            self.process.kill()
            said = self.process.communicate()[1] + "killed: SIGTERM did not end it"
        if kind is None and (self.process.returncode != 0 or said):
            raise AssertionError(f"{self.tier}: exit code {self.process.returncode}: {said}")


class NetworkEquality(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        (self.folder / "keys").mkdir()
        make_keys(BINARY, self.folder / "keys")
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
        with Node(self.folder, "cloud", threshold, batch=batch) as cloud:
            with Node(self.folder, "edge", threshold, cloud, codec, batch) as edge:
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
    if not os.access(BINARY, os.X_OK):
        sys.exit(f"network_equality_test: wanted the program, found none at {BINARY}")
    unittest.main()
