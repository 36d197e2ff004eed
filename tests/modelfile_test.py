#!/usr/bin/env python3
"""Model files as Python writes and reads them: their form, which damage is refused, and that the
committed weights are what their card says."""

import hashlib
import json
import os
import pathlib
import sys
import tempfile
import unittest

try:
    import numpy
    import torch
except ImportError as missing:
    print(f"SKIPPED: {missing}; install python3-torch and python3-torchvision", file=sys.stderr)
    sys.exit(77)

from scene import SOURCE

sys.path.insert(0, str(SOURCE / "tools"))
import export_weights  # noqa: E402
import modelfile  # noqa: E402
import networks  # noqa: E402
from torchgraph import TorchGraph  # noqa: E402

WEIGHTS = SOURCE / "weights"


class Files(unittest.TestCase):
    def setUp(self):
        torch.set_num_threads(1)  # more of them fight with other tests for the cores
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = pathlib.Path(folder.name) / "model.safetensors"

    def export(self):
        module = networks.build("lenet")
        export_weights.randomise(module, seed=3)
        return export_weights.export(
            module,
            self.path,
            name="test",
            input_shape=(3, 32, 32),
            mean=[0.5] * 3,
            std=[0.2] * 3,
            classes=[f"class {n}" for n in range(10)],
        )

    def test_the_safetensors_package_opens_it(self):
        try:
            from safetensors import safe_open
        except ImportError:
            self.skipTest("the safetensors package is not installed")
        model = self.export()
        with safe_open(str(self.path), "np") as file:
            self.assertEqual(file.metadata()["offramp.hash"], model.hash())
            self.assertEqual(set(file.keys()), set(model.tensors))
            for name, tensor in model.tensors.items():
                numpy.testing.assert_array_equal(file.get_tensor(name), tensor)

    def test_header_is_padded_and_data_have_no_holes(self):
        self.export()
        data = self.path.read_bytes()
        length = int.from_bytes(data[:8], "little")
        self.assertEqual((8 + length) % 64, 0)
        header = json.loads(data[8 : 8 + length])
        spans = sorted(entry["data_offsets"] for name, entry in header.items() if name[:2] != "__")
        self.assertEqual([first for first, _ in spans], [0] + [last for _, last in spans[:-1]])
        self.assertEqual(8 + length + spans[-1][1], len(data))

    def test_hash_of_a_small_file(self):
        # Composed by hand from the definition in FORMAT.md.
        text = b"a\0x\0b\0\xc3\xa9\0" + b"t\0F32\0" + b"2x1\0" + b"\0\0\x80\x3f\0\0\0\xc0"
        wanted = hashlib.blake2b(text, digest_size=32).hexdigest()
        tensors = {"t": numpy.array([[1], [-2]], numpy.float32)}
        metadata = {"b": "\u00e9", "offramp.hash": "anything", "a": "x"}
        self.assertEqual(modelfile.content_hash(tensors, metadata), wanted)

    def test_damaged_files_are_refused(self):
        self.export()
        good = self.path.read_bytes()
        length = int.from_bytes(good[:8], "little")
        damaged = [good[:n] for n in (0, 7, 8, 100, 8 + length, len(good) - 1)]
        damaged += [good + b"\0", (1 << 40).to_bytes(8, "little") + good[8:]]
        damaged += [
            good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]
            for at in (0, 9, 200, 8 + length + 4, len(good) - 1)
        ]
        damaged.append(good.replace(b'"F32"', b'"F16"', 1))
        damaged.append(good[:-4] + b"\0\0\xc0\x7f")  # NaN
        for number, data in enumerate(damaged):
            self.path.write_bytes(data)
            with self.assertRaises(modelfile.ModelError, msg=f"damage {number}"):
                modelfile.read_model(self.path)


class CommittedWeights(unittest.TestCase):
    def models(self):
        paths = [path for path in WEIGHTS.glob("*.safetensors") if ".golden." not in path.name]
        self.assertIn(WEIGHTS / "resnet20b.safetensors", paths)
        return paths

    def test_hash_and_card(self):
        for path in self.models():
            model = modelfile.read_model(path)  # compares the hash
            card = path.with_suffix(".md").read_text(encoding="utf-8")
            self.assertIn(model.hash(), card)

    def test_golden_files_are_what_pytorch_computes(self):
        for path in self.models():
            model = modelfile.read_model(path)
            golden = path.with_name(path.stem + ".golden.safetensors")
            self.assertLess(golden.stat().st_size, 1_500_000)
            tensors, metadata = modelfile.read_safetensors(golden)
            self.assertEqual(metadata["offramp.hash"], model.hash())
            x = torch.from_numpy(numpy.array(tensors.pop("input"))).double()
            logits, activations = TorchGraph(model).double()(x, activations=True)
            wanted = {f"logits:{exit['name']}": found for exit, found in zip(model.exits, logits)}
            wanted.update(
                {
                    f"layer:{name}": activations[name][:1]
                    for name in export_weights.observable(model)
                }
            )
            self.assertEqual(set(tensors), set(wanted))
            for name, tensor in tensors.items():
                numpy.testing.assert_allclose(tensor, wanted[name].numpy(), rtol=1e-6, atol=1e-9)


if __name__ == "__main__":
    unittest.main(verbosity=2 if os.environ.get("VERBOSE") else 1)
