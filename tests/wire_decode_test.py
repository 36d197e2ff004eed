#!/usr/bin/env python3
"""tools/wire.py, from the specification, and net/message.cpp read the same in the same bytes.

Golden bytes (tests/fixtures/wire), which tests/message_test.cpp checks on the other side; random
messages that C++ wrote; the same with damage; tensors that Python wrote.
"""

import json
import pathlib
import random
import struct
import subprocess
import sys
import tempfile
import unittest

try:
    import lz4.block  # noqa: F401 (for the wire)
    import numpy
    import xxhash
except ImportError as missing:
    print(f"wire_decode_test: skipped: {missing} (tools/setup.sh --tests)")
    sys.exit(77)

from scene import SOURCE, WIRE_TWIN, require

sys.path.insert(0, str(SOURCE / "tools"))
import wire  # noqa: E402
import wire_decode  # noqa: E402

FIXTURES = SOURCE / "tests" / "fixtures" / "wire"
TOOL = SOURCE / "tools" / "wire_decode.py"
LIMITS = wire.Limits(classes=10, exits=3, payload=4096)
MESSAGES = 4000
DAMAGED = 8000


def canonical(message):
    """Text that tells -0.0 from 0.0; without what concerns the carrier alone."""
    return json.dumps({k: v for k, v in message.items() if k != "frame"}, sort_keys=True)


def twin(*arguments, data=b""):
    command = [WIRE_TWIN, *map(str, arguments)]
    return subprocess.run(command, input=data, check=True, capture_output=True).stdout


def read_by_twin(messages):
    lines = twin("decode", *LIMITS, data=wire_decode.write_capture(messages)).decode().splitlines()
    return [json.loads(line) for line in lines]


def random_messages(seed, count):
    return [frames for _, frames in wire_decode.read_capture(twin("random", seed, count), "twin")]


def put(data, offset, value):
    return data[:offset] + value + data[offset + len(value) :]


def repaired(header, payload):
    """With the lengths and the XXH3 of an INFER put right, so that what stands behind them counts."""
    if len(header) < wire.FIXED_BYTES:
        return header
    header = put(header, 8, struct.pack("<H", len(header) & 0xFFFF))
    if header[6] == 3:
        header = put(header, 36, struct.pack("<I", len(payload)))
        header = put(header, 88, struct.pack("<Q", xxhash.xxh3_64_intdigest(payload)))
    return header


def damage(rng, header, payload):
    """One to three changes of bits, bytes, lengths, items or payload."""
    for _ in range(rng.randint(1, 3)):
        kind = rng.randrange(8)
        if kind == 0 and header:
            at = rng.randrange(len(header))
            header = put(header, at, bytes([header[at] ^ 1 << rng.randrange(8)]))
        elif kind == 1 and header:
            value = rng.choice((0, 1, 2, 3, 4, 5, 12, 0x7F, 0x80, 0xFF))
            header = put(header, rng.randrange(len(header)), bytes([value]))
        elif kind == 2:
            header = header[: rng.randint(0, len(header))]
        elif kind == 3:
            number = rng.choice([*wire.ITEMS, 0x07, 0x7F, 0x80, 0x83])
            value = rng.randbytes(rng.choice((0, 1, 2, 4, 6, 8, 16, 17, 18)))
            header += struct.pack("<BH", number, len(value) + (rng.random() < 0.1)) + value
        elif kind == 4:
            payload = payload[: rng.randint(0, len(payload))] + rng.randbytes(rng.randrange(3))
        elif kind == 5 and payload:
            payload = put(payload, rng.randrange(len(payload)), rng.randbytes(1))
        elif kind == 6 and len(header) >= wire.FIXED_BYTES:
            # Type, dtype, codec, dimensions, tier, a side, the unpacked length.
            offset = rng.choice((6, 10, 11, 12, 46, 64, 68, 72, 76, 40))
            header = put(header, offset, bytes([rng.randrange(14)]))
        elif len(header) > wire.FIXED_BYTES:
            at = rng.randrange(wire.FIXED_BYTES, len(header))
            header = put(header, at, rng.randbytes(1))
    return [repaired(header, payload) if rng.random() < 0.8 else header, payload]


class Golden(unittest.TestCase):
    def setUp(self):
        self.expected = json.loads((FIXTURES / "messages.json").read_text())
        text = (FIXTURES / "messages.hex").read_text()
        self.messages = dict(wire_decode.read_hex(text, "messages.hex"))
        self.limits = wire.Limits(**self.expected["limits"])

    def test_every_message_is_read_or_refused_as_written(self):
        self.assertEqual(self.messages.keys(), self.expected["messages"].keys())
        for name, frames in self.messages.items():
            with self.subTest(name):
                found = canonical(wire_decode.described(frames, self.limits))
                self.assertEqual(found, canonical(self.expected["messages"][name]))

    def test_every_message_is_written_as_it_was_read(self):
        unlike = self.expected["not_written_so"]
        for name, frames in self.messages.items():
            with self.subTest(name):
                if "refused" in self.expected["messages"][name]:
                    continue
                written = wire.encode(wire.decode(frames, self.limits))
                self.assertEqual(list(written) == frames, name not in unlike)

    def test_nothing_of_the_specification_is_left_out(self):
        messages = self.expected["messages"].values()
        self.assertEqual({m.get("message") for m in messages} - {None}, set(wire.TYPES.values()))
        refused = {m["refused"] for m in messages if "refused" in m}
        self.assertEqual(len(refused), 12)
        self.assertEqual({m.get("reason") for m in messages} - {None}, set(wire.REASONS))
        self.assertLessEqual(set(wire.ERRORS), {m.get("code") for m in messages})
        tensors = {(m["dtype"], m["codec"]) for m in messages if "tensor" in m}
        self.assertEqual(tensors, {(d, c) for d in wire.DTYPES.values() for c in wire.CODECS})
        bad = {m.get("bad_tensor") for m in messages} - {None}
        self.assertEqual(bad, {"size", "packed", "scale", "not finite"})


class Command(unittest.TestCase):
    def run_tool(self, *arguments, data=b""):
        command = [sys.executable, TOOL, *map(str, arguments)]
        return subprocess.run(command, input=data, capture_output=True)

    def test_json(self):
        path = FIXTURES / "messages.hex"
        done = self.run_tool("--json", "--classes", 10, "--exits", 3, path)
        self.assertEqual(done.returncode, 65)
        expected = json.loads((FIXTURES / "messages.json").read_text())["messages"]
        found = {}
        for line in done.stdout.decode().splitlines():
            message = json.loads(line)
            name = message.pop("name")
            found[name] = canonical(message)
        # Alone the limit of the payload is another one here.
        self.assertEqual(found.keys(), expected.keys())
        unlike = {name for name in found if found[name] != canonical(expected[name])}
        self.assertEqual(unlike, {"above_the_limit", "lz4_above_the_limit"})

    def test_text(self):
        frames = wire.encode({"message": "PONG", "sequence": 9, "queue_depth": 4, "held_us": 5})
        text = f"= a  # comment\n{frames[0].hex()}\n/\n".encode()
        done = self.run_tool(data=text)
        self.assertEqual(done.returncode, 0, done.stderr)
        for wanted in ("a: PONG", "sequence: 9", "queue_depth: 4", "header_bytes: 107"):
            self.assertIn(wanted, done.stdout.decode())

    def test_capture(self):
        messages = [wire.encode({"message": "BYE"}), (b"no", b"")]
        done = self.run_tool("--capture", data=wire_decode.write_capture(messages))
        self.assertEqual(done.returncode, 65)
        self.assertIn("[0]: BYE", done.stdout.decode())
        self.assertIn("[1]: refused: truncated header", done.stdout.decode())

    def test_what_makes_no_sense_is_refused_in_one_line(self):
        for data, arguments, code in (
            (b"zz", (), 65),
            (b"\xff", (), 65),
            (b"\1\0\0\0", ("--capture",), 65),
            (b"", ("/nowhere",), 66),
            (b"", (FIXTURES,), 66),
            (b"", ("--shape", "4x4"), 64),
            (b"", ("--shape", "4x0x4"), 64),
            (b"", ("--shape", "4x4xmany"), 64),
            (b"", ("--classes", "-1"), 64),
            (b"", ("--exits", "x"), 64),
        ):
            with self.subTest(data=data, arguments=arguments):
                done = self.run_tool(*arguments, data=data)
                self.assertEqual(done.returncode, code)
                what = arguments[0] if code != 65 else "-"
                line = rf"^wire_decode.py: {what}: wanted .*, found .*\n$"
                self.assertRegex(done.stderr.decode(), line)

    def test_a_tensor_of_another_shape(self):
        tensor = wire.encode_tensor(numpy.zeros((2, 3, 4), "f4"))
        data = wire_decode.write_capture([wire.encode({"message": "INFER", **tensor})])
        for shape, code in (("2x3x4", 0), ("2x3x5", 65)):
            done = self.run_tool("--capture", "--shape", shape, data=data)
            self.assertEqual(done.returncode, code, done.stdout)
            self.assertEqual(b"bad_tensor: size" in done.stdout, code == 65)


class Keys(unittest.TestCase):
    def test_keys_for_the_next_tier(self):
        with tempfile.TemporaryDirectory() as name:
            secret, public = pathlib.Path(name) / "self.key", pathlib.Path(name) / "next.pub"
            secret.write_text("secret-key " + 40 * "s" + "\n")
            public.write_text(40 * "p" + "\n")
            self.assertEqual(wire.read_keys(name), [40 * b"s", 40 * b"p"])
            for path, bad in ((secret, 40 * "s"), (public, 39 * "p"), (public, "")):
                with self.subTest(bad):
                    good = path.read_text()
                    path.write_text(bad)
                    with self.assertRaisesRegex(ValueError, f"{path.name}: wanted .*, found"):
                        wire.read_keys(name)
                    path.write_text(good)


class Twins(unittest.TestCase):
    def assert_alike(self, messages):
        """Returns what both say about each."""
        ours = [wire_decode.described(frames, LIMITS) for frames in messages]
        theirs = read_by_twin(messages)
        self.assertEqual(len(ours), len(theirs))
        for frames, our, their in zip(messages, ours, theirs):
            if canonical(our) != canonical(their):
                text = " / ".join(frame.hex() for frame in frames)
                self.fail(f"{text}\nPython: {canonical(our)}\nC++:    {canonical(their)}")
        return ours

    def test_random_messages(self):
        messages = random_messages(1, MESSAGES)
        said = self.assert_alike(messages)
        self.assertEqual({m.get("message") for m in said}, set(wire.TYPES.values()))
        bad = sum("bad_tensor" in m for m in said)
        self.assertTrue(0 < bad < len(said) // 10, bad)
        for frames in messages:
            self.assertEqual(list(wire.encode(wire.decode(frames, LIMITS))), frames)

    def test_damaged_messages(self):
        rng = random.Random(2)
        whole = random_messages(3, DAMAGED)
        said = self.assert_alike([damage(rng, *frames) for frames in whole])
        counts = {}
        for m in said:
            key = m.get("refused", "bad tensor" if "bad_tensor" in m else "good")
            counts[key] = counts.get(key, 0) + 1
        print(counts)
        # A reason that never comes would not have been compared. The capture has two frames always.
        for reason in ("truncated header", "magic", "version", "header length", "flags", "item"):
            self.assertGreater(counts.get(reason, 0), 0, reason)
        for reason in ("unknown item", "field", "type", "payload", "checksum", "bad tensor", "good"):
            self.assertGreater(counts.get(reason, 0), 0, reason)

    def test_tensors_of_python(self):
        rng = numpy.random.default_rng(4)
        tensors, messages = [], []
        for i in range(400):
            sides = rng.integers(1, 7, 3)
            x = rng.normal(0, 10.0 ** rng.integers(-3, 4), sides).astype("f4")
            x = numpy.maximum(x, 0) if i % 2 else x
            for dtype in ("f32", "f16", "u8", "u8c"):
                fields = wire.encode_tensor(x, dtype, lz4_wanted=i % 3 == 0)
                tensors.append((x, dtype))
                messages.append(list(wire.encode({"message": "INFER", **fields})))
        for (x, dtype), m in zip(tensors, self.assert_alike(messages)):
            found = numpy.array(m["tensor"]).reshape(x.shape)
            allowed = {"f32": 0.0, "f16": numpy.maximum(abs(x) * 2.0**-11, 2.0**-25)}.get(dtype)
            if allowed is None:
                axes = (0, 1) if dtype == "u8c" else None
                span = numpy.maximum(x.max(axes), 0) - numpy.minimum(x.min(axes), 0)
                allowed = span / 254.99 * 0.5001
            self.assertTrue((abs(found - x) <= allowed).all(), dtype)

    def test_what_a_dtype_cannot_hold(self):
        for dtype, value in (("f32", numpy.nan), ("f16", 65520.0), ("u8", numpy.inf), ("u8c", 3e38)):
            x = numpy.full((1, 1, 2), value, "f4")
            if dtype == "u8c":
                x = numpy.concatenate([x, -x])
            with self.assertRaises(wire.BadTensor, msg=dtype):
                wire.encode_tensor(x, dtype)


if __name__ == "__main__":
    require(WIRE_TWIN)
    unittest.main()
