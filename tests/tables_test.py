#!/usr/bin/env python3
"""README.md and the model card say what bench/results keeps: bench/tables.py --check."""

import contextlib
import io
import pathlib
import shutil
import sys
import tempfile
import unittest
from unittest import mock

from scene import MODEL, SOURCE

sys.path.insert(0, str(SOURCE / "bench"))
try:
    import tables
except ModuleNotFoundError as missing:  # what draws the study wants PyTorch
    print(f"tables_test: skipped: no {missing.name}")
    sys.exit(77)


def quietly(*words):
    """(exit code, what was said)."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = tables.main(list(words))
    return code, said.getvalue()


class Tables(unittest.TestCase):
    def setUp(self):
        self.root = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.root)
        shutil.copytree(SOURCE / "bench" / "results", self.root / "bench" / "results")
        for file in tables.TABLES:
            (self.root / file).parent.mkdir(exist_ok=True)
            shutil.copy(SOURCE / file, self.root / file)
        shutil.copy(MODEL, self.root / "weights")

    def changed(self, file, before, after):
        """What is said of the copy, and what mending it gives."""
        path = self.root / file
        text = path.read_text()
        self.assertIn(before, text)
        path.write_text(text.replace(before, after))
        with mock.patch.object(tables, "ROOT", self.root):
            return quietly("--check"), quietly(), path.read_text() == text

    def test_what_is_written_is_what_was_measured(self):
        self.assertEqual(quietly("--check"), (0, ""))

    def test_a_figure_that_was_not_measured_is_found_and_mended(self):
        for file, name in (("README.md", "default model"), ("weights/resnet20b.md", "accuracy")):
            before = tables.BEGIN.format(name) + "\n|"
            check, write, same = self.changed(file, before, before + " 99 % |")
            self.assertEqual(check, (1, f"tables.py: {file}: {name}: not what bench/results says\n"))
            self.assertEqual(write, (0, f"tables.py: {file}: {name}: written\n"))
            self.assertTrue(same)

    def test_a_mark_that_is_gone_is_said(self):
        check, write, _ = self.changed("README.md", tables.BEGIN.format("codecs"), "")
        self.assertEqual(check, write)
        self.assertEqual(check[0], 65)
        self.assertRegex(check[1], "^tables.py: README.md: wanted '.*codecs.*', found none\n$")

    def test_figures_of_another_model_are_not_taken_for_this_one(self):
        path = self.root / "bench" / "results" / "codecs-resnet20b.json"
        path.write_text(path.read_text().replace('"id": "', '"id": "other-', 1))
        with mock.patch.object(tables, "ROOT", self.root):
            code, said = quietly()
        self.assertEqual(code, 65)
        self.assertRegex(said, r"^tables.py: README.md: codecs-resnet20b.json: wanted figures of "
                               r"resnet20b.safetensors \(\w{16}\), found other-\w{16}'s\n$")

    def test_wrong_usage(self):
        self.assertEqual(quietly("--fix")[0], 64)


if __name__ == "__main__":
    unittest.main()
