#!/usr/bin/env python3
"""tools/examples/wire_client.py, which speaks the wire itself, gets from real nodes with keys what
`offramp run` gets: the same bits.

Its tensors are those of `offramp run`, taken by an edge that this test plays.
"""

import csv
import json
import pathlib
import subprocess
import sys
import tempfile
import threading
import unittest

try:
    import lz4.block  # noqa: F401 (this and xxhash: for the wire)
    import numpy
    import xxhash  # noqa: F401
    import zmq
except ImportError as missing:
    print(f"wire_client_test: skipped: {missing} (tools/setup.sh --tests)")
    sys.exit(77)

from scene import BINARY, MODEL, SOURCE, QuietNode, make_keys, require

sys.path.insert(0, str(SOURCE / "tools"))
import modelfile  # noqa: E402
import wire  # noqa: E402

CLIENT = SOURCE / "tools" / "examples" / "wire_client.py"
PICTURES = sorted((SOURCE / "tools" / "samples").glob("*.png"))[:4]
PATIENT = ["--window", "1", "--deadline", "300s", "--wait", "60s"]


class Edge(threading.Thread):
    """Welcomes a device, keeps its tensors and answers each with OVERLOADED."""

    def __init__(self, endpoint):
        super().__init__(daemon=True)
        self.tensors = {}
        self.socket = zmq.Context.instance().socket(zmq.ROUTER)
        self.socket.bind(endpoint)
        self.start()

    def run(self):
        with self.socket:
            self.serve()

    def serve(self):
        while self.socket.poll(60000):
            peer, *frames = self.socket.recv_multipart()
            m = wire.decode(frames)
            answer = {
                "HELLO": {"message": "WELCOME", "tier": "edge", "window": 8},
                "PING": {"message": "PONG"},
                "INFER": {"message": "ERROR", "code": 4, "text": "kept"},
            }.get(m["message"])
            if m["message"] == "INFER":
                self.tensors[m["counter"]] = wire.decode_tensor(m)
            if answer is None:
                return
            self.socket.send_multipart([peer, *wire.encode(m | answer | {"payload": b""})])


class WireClient(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.keys = make_keys(self.folder) / "device"

    def run_device(self, *more):
        decisions = self.folder / "decisions.csv"
        command = [BINARY, "run", *PICTURES, "--model", MODEL, "--thresholds", "0", *PATIENT]
        done = subprocess.run([*command, "--decisions", decisions, *more], capture_output=True)
        return done, list(csv.DictReader(decisions.read_text().splitlines()))

    def tensors_of_the_device(self):
        endpoint = f"ipc://{self.folder}/edge"
        edge = Edge(endpoint)
        _, rows = self.run_device("--next", endpoint)
        self.assertEqual({row["status"] for row in rows}, {"degraded(overloaded)"})
        edge.join(60)
        self.assertEqual(len(edge.tensors), len(PICTURES))
        return [edge.tensors[counter] for counter in sorted(edge.tensors)]

    def ask(self, edge, *more, keys=None, code=0):
        command = [sys.executable, CLIENT, f"tcp://{edge.address}", keys or self.keys, "--seconds", "60", *more]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120)
        self.assertEqual(done.returncode, code, done.stderr)
        return json.loads(done.stdout) if done.stdout else done.stderr

    def test_answers_have_the_bits_of_run(self):
        tensors = self.tensors_of_the_device()
        # All answers are the cloud's, then the edge's.
        for threshold in ("0", "1"):
            with QuietNode(self.folder, "cloud", threshold) as cloud:
                with QuietNode(self.folder, "edge", threshold, cloud) as edge:
                    done, rows = self.run_device("--next", edge.address, "--keys", self.keys)
                    self.assertEqual(done.returncode, 0, done.stderr)
                    for row, tensor in zip(rows, tensors):
                        path = self.folder / "tensor.npy"
                        numpy.save(path, tensor)
                        answer = self.ask(edge, "--tensor", path)
                        self.assertEqual(answer["reason"], "ok")
                        self.assertEqual(answer["tier"], {"0": "cloud", "1": "edge"}[threshold])
                        found = [answer[name] for name in ("label", "exit", "probability", "entropy")]
                        wanted = [int(row["label"]), int(row["exit"])]
                        wanted += [float.fromhex(row[name]) for name in ("probability", "entropy")]
                        self.assertEqual(found, wanted)

    def test_the_golden_tensor_with_every_codec(self):
        golden, _ = modelfile.read_safetensors(MODEL.with_suffix(".golden.safetensors"))
        logits = golden["logits:exit3"][0].astype("f8")
        logits /= modelfile.read_model(MODEL).rules()[-1]["temperature"]
        softmax = numpy.exp(logits - logits.max())
        softmax /= softmax.sum()
        with QuietNode(self.folder, "cloud", "0") as cloud:
            with QuietNode(self.folder, "edge", "0", cloud) as edge:
                for dtype, off in (("f32", 1e-5), ("f16", 1e-2), ("u8", 0.1), ("u8c", 0.1)):
                    answer = self.ask(edge, "--dtype", dtype, "--lz4")
                    self.assertEqual(answer["label"], softmax.argmax())
                    self.assertLess(abs(answer["probability"] - softmax.max()), off, dtype)
                    self.assertEqual([hop["tier"] for hop in answer["hops"]], ["edge", "cloud"])

    def test_refusals(self):
        with QuietNode(self.folder, "cloud", "0") as cloud:
            # The node says whom it refused, which QuietNode takes for a failure.
            with self.assertRaisesRegex(AssertionError, "not served here\n.*an unknown one"):
                with QuietNode(self.folder, "edge", "0", cloud) as edge:
                    wrong = self.folder / "wrong.npy"
                    numpy.save(wrong, numpy.zeros((2, 2, 2), "f4"))
                    refused = self.ask(edge, "--tensor", wrong, code=69)
                    self.assertEqual(refused["error"], "model mismatch")
                    stranger = self.folder / "keys" / "cloud"
                    (stranger / "next.pub").write_text((self.keys / "next.pub").read_text())
                    said = self.ask(edge, "--seconds", "2", keys=stranger, code=69)
                    self.assertIn("wanted a node that lets us in, found none in time", said)


if __name__ == "__main__":
    require(BINARY)
    unittest.main()
