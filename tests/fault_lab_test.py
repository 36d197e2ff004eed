#!/usr/bin/env python3
"""What runs the fault tests says how each row ended, whatever ended it, and leaves the machine as
it was."""

import contextlib
import io
import pathlib
import subprocess
import sys
import tempfile
import unittest
import unittest.mock

from scene import BINARY, Failed, require

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "faults"))
import machine  # noqa: E402
import run  # noqa: E402
import table  # noqa: E402
from lab import Lab, Skip  # noqa: E402


class Runner(unittest.TestCase):
    def test_all_rows_are_there(self):
        self.assertEqual(sorted(table.TABLE), list(range(1, 22)))
        self.assertLessEqual(set(run.QUICK), set(table.TABLE))

    def run_row(self, function):
        out = io.StringIO()
        with unittest.mock.patch.dict(table.TABLE, {7: ("made up", function)}):
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
        self.assertEqual(self.ended_by(table.Gap("one")), ("FAIL", "(known) one"))
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
        self.assertEqual(table.or_skipped(skip), "skipped: wanted root, found another user")
        self.assertEqual(table.or_skipped(lambda: "all of it"), "all of it")
        with self.assertRaises(Failed):
            table.or_skipped(unittest.mock.Mock(side_effect=Failed("not met")))


class Undoing(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.undo = contextlib.ExitStack()
        self.lab = unittest.mock.Mock(at_end=self.undo.callback)

    def end_of_a_lab(self, *failure):
        """The steps that were taken, of three of which the second fails; and the lab's folder."""
        steps = []

        def fail():
            steps.append("failed")
            raise OSError("device is busy")

        with Lab() as lab:
            lab.at_end(lambda: steps.append("last"))
            lab.at_end(fail)
            lab.at_end(lambda: steps.append("first"))
            self.found = steps, lab.folder
            for one in failure:
                raise one

    def test_each_step_is_taken_whatever_becomes_of_the_others(self):
        with self.assertRaisesRegex(OSError, "device is busy"):
            self.end_of_a_lab()
        self.assertEqual(self.found[0], ["first", "failed", "last"])
        self.assertFalse(self.found[1].exists())

    def test_a_failure_of_the_row_is_told_before_one_of_its_end(self):
        told = io.StringIO()
        with self.assertRaisesRegex(Failed, "not met"), contextlib.redirect_stderr(told):
            self.end_of_a_lab(Failed("not met"))
        self.assertEqual(self.found[0], ["first", "failed", "last"])
        self.assertEqual(told.getvalue(), "while ending: device is busy\n")

    def test_controllers_of_version_2_are_handed_down_for_a_time(self):
        control = self.folder / "cgroup.subtree_control"
        for before, within, after in (("cpu pids", "+memory", "-memory"),
                                      ("cpu memory", "cpu memory", "cpu memory")):
            with self.subTest(before):
                control.write_text(before)
                group = machine.MemoryLimit(self.lab, 64, root=self.folder)
                self.assertEqual((group.folder / "memory.max").read_text(), "64")
                self.assertEqual(control.read_text(), within)
                (group.folder / "memory.max").unlink()  # a folder like others here
                self.undo.close()
                self.assertEqual(control.read_text(), after)
                self.assertFalse(group.folder.exists())

    def test_of_a_namespace_s_hosts_nothing_is_left(self):
        spaces = machine.Namespaces.__new__(machine.Namespaces)  # without root
        spaces.names, spaces._lab = {"device": "ofr1device"}, self.lab
        for others in (False, True):
            etc = self.folder / f"netns{others}"
            with self.subTest(others=others), unittest.mock.patch.object(machine, "ETC", etc):
                spaces.hosts("device").write_text("127.0.0.1 edge.example\n")
                self.assertEqual([path.name for path in etc.glob("*/*")], ["hosts"])
                if others:
                    (etc / "theirs").mkdir()
                self.undo.close()
                self.assertEqual([path.name for path in etc.glob("*")], ["theirs"] * others)
                self.assertEqual(etc.exists(), others)


if __name__ == "__main__":
    require(BINARY)
    unittest.main()
