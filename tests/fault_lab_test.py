#!/usr/bin/env python3
"""What runs the fault tests says how each row ended, whatever ended it."""

import contextlib
import io
import pathlib
import subprocess
import sys
import unittest
import unittest.mock

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "faults"))
import rows  # noqa: E402
import run  # noqa: E402
from lab import Skip  # noqa: E402
from scene import Failed  # noqa: E402


class Runner(unittest.TestCase):
    def run_row(self, function):
        out = io.StringIO()
        with unittest.mock.patch.dict(rows.TABLE, {7: ("made up", function)}):
            with contextlib.redirect_stdout(out):
                result = run.run_row(7, quick=True)
        self.assertRegex(out.getvalue(), rf"^{result}   7  made up \[0 s\]: .*\n$")
        return result, out.getvalue().split("]: ", 1)[1].rstrip("\n")

    def ended_by(self, error):
        return self.run_row(unittest.mock.Mock(side_effect=error))

    def test_figures(self):
        self.assertEqual(self.run_row(lambda quick: f"quick {quick}"), ("PASS", "quick True"))

    def test_what_ends_a_row_is_one_line(self):
        self.assertEqual(self.ended_by(Failed("one\n two")), ("FAIL", "one two"))
        self.assertEqual(self.ended_by(rows.Gap("one")), ("FAIL", "(known) one"))
        self.assertEqual(self.ended_by(Skip("no root")), ("SKIP", "no root"))

    def test_programs_that_are_absent_hang_or_fail_end_their_row_alone(self):
        result, said = self.ended_by(FileNotFoundError(2, "No such file", "offramp"))
        self.assertEqual((result, "'offramp'" in said), ("FAIL", True))
        result, said = self.ended_by(subprocess.TimeoutExpired(["offramp", "node"], 20))
        self.assertEqual((result, "timed out after 20" in said), ("FAIL", True))
        result, said = self.ended_by(subprocess.CalledProcessError(65, ["offramp"]))
        self.assertEqual((result, "exit status 65" in said), ("FAIL", True))

    def test_half_a_row_that_is_skipped_says_so(self):
        skip = unittest.mock.Mock(side_effect=Skip("wanted root, found another user"))
        self.assertEqual(rows.or_skipped(skip), "skipped: wanted root, found another user")
        self.assertEqual(rows.or_skipped(lambda: "all of it"), "all of it")
        with self.assertRaises(Failed):
            rows.or_skipped(unittest.mock.Mock(side_effect=Failed("not met")))


if __name__ == "__main__":
    unittest.main()
