#!/usr/bin/env python3
"""tools/make_samples.py draws what lies in tools/samples, and draws it alike each time."""

import pathlib
import subprocess
import sys
import tempfile
import unittest

try:
    import numpy as np
    from PIL import Image
except ImportError as missing:
    print(f"make_samples_test: SKIPPED, {missing.name} is not installed", file=sys.stderr)
    sys.exit(77)

TOOLS = pathlib.Path(__file__).resolve().parent.parent / "tools"
CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()
TOTAL_BYTES = 200_000


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


class MakeSamplesTest(unittest.TestCase):
    def draw(self, folder):
        command = [sys.executable, str(TOOLS / "make_samples.py"), str(folder)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    def test_draws_the_committed_pictures(self):
        with tempfile.TemporaryDirectory() as base:
            first, second = pathlib.Path(base) / "first", pathlib.Path(base) / "second"
            for folder in (first, second):
                result = self.draw(folder)
                self.assertEqual(result.returncode, 0, result.stderr)
            committed = sorted((TOOLS / "samples").iterdir())
            names = [path.name for path in committed]
            self.assertEqual(names, sorted(path.name for path in first.iterdir()))
            for path in committed:
                with self.subTest(path.name):
                    drawn = first / path.name
                    self.assertEqual(drawn.read_bytes(), (second / path.name).read_bytes())
                    # Another Pillow may smooth an edge differently, and no more than that.
                    self.assertEqual(pixels(drawn).shape, pixels(path).shape)
                    self.assertLess(np.abs(pixels(drawn) - pixels(path)).mean(), 1)
            self.assertEqual({name.split("-")[0] for name in names}, set(CLASSES))
            self.assertLess(sum(path.stat().st_size for path in committed), TOTAL_BYTES)

    def test_refuses_bad_arguments(self):
        for folder, code in (("--colour", 64), (__file__, 73)):
            result = self.draw(folder)
            self.assertEqual(result.returncode, code, result.stderr)
            self.assertEqual(result.stderr.count("\n"), 1, result.stderr)


if __name__ == "__main__":
    unittest.main()
