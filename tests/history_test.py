#!/usr/bin/env python3
"""The checker of the fault tests finds what it is to find, in histories made up for it."""

import pathlib
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "faults"))
import history  # noqa: E402

HEAD = "time_us,event,id,picture,tier,exit,label,probability,entropy,status,total_us\n"
DEADLINE_MS = 100
THRESHOLD = 0.5
SURE, UNSURE = "0x1p-3", "0x1.8p-1"
# Two pictures: the first exit is sure of the first, no other is sure of anything.
OFFLINE = [
    [("1", "0x1.cp-1", SURE), ("2", "0x1p-1", UNSURE)],
    [("1", "0x1.8p-1", UNSURE), ("3", "0x1p-1", UNSURE)],
    [("1", "0x1.ep-1", UNSURE), ("4", "0x1p-1", UNSURE)],
]


def begun(number, at):
    return f"{at},begun,{number},{number % 2},,,,,,,\n"


def answered(number, at, taken, status="ok", tier=None, decision=None, total=1000):
    label, probability, entropy = decision or OFFLINE[taken][number % 2]
    tier = tier or history.TIERS[taken]
    return (f"{at},answered,{number},{number % 2},{tier},{taken},{label},{probability},{entropy},"
            f"{status},{total}\n")


def good(count, spacing_us=1000):
    """Even ids leave at the device, odd ones at the cloud."""
    lines = []
    for number in range(count):
        at = 1_000_000 + number * spacing_us
        lines += [begun(number, at), answered(number, at + 900, 0 if number % 2 == 0 else 2)]
    return lines


class Checker(unittest.TestCase):
    def check(self, lines, **more):
        with tempfile.NamedTemporaryFile("w", suffix=".csv") as file:
            file.write(HEAD + "".join(lines))
            file.flush()
            return history.check(history.read(file.name), DEADLINE_MS, THRESHOLD, OFFLINE, **more)

    def complains(self, lines, about, **more):
        verdict = self.check(lines, **more)
        self.assertTrue(any(about in one for one in verdict.complaints), verdict)
        return verdict

    def test_a_good_history_is_good(self):
        verdict = self.check(good(100), healed_us=[1_010_000])
        self.assertEqual(verdict.complaints, [])
        self.assertEqual(verdict.requests, 100)
        self.assertEqual(verdict.outcomes, {"ok": 100})
        self.assertEqual(verdict.handed_on, 50)
        self.assertEqual(verdict.compared, 100)
        self.assertEqual(verdict.worst_overrun_ms, 0.9 + 0.1 - DEADLINE_MS)
        self.assertEqual(verdict.recovery_ms, [1.0])

    def test_no_answer_two_answers_and_answers_to_nothing(self):
        lines = good(10)
        self.complains(lines[:-1], "id 9: wanted one outcome, found 0")
        self.complains([*lines, answered(9, 1_020_000, 2)], "id 9: wanted one outcome, found 2")
        self.complains([*lines, answered(10, 1_020_000, 0)], "id 10 was answered and not begun")
        self.complains([*lines, begun(9, 1_020_000)], "id 9 was begun twice")
        self.complains([], "wanted requests, found none")

    def test_a_late_answer(self):
        within = [begun(1, 0), answered(1, 119_000, 0, "degraded(late)")]
        self.assertEqual(self.check(within).complaints, [])
        for late in ([begun(1, 0), answered(1, 121_000, 0, "degraded(late)")],
                     [begun(1, 0), answered(1, 50_000, 0, "degraded(late)", total=121_000)]):
            verdict = self.complains(late, "21.0 ms beyond the deadline")
            self.assertEqual((verdict.over_bound, verdict.over_bound_unexplained), (1, 1))

    def test_time_that_the_process_did_not_get_is_told_apart(self):
        late = [begun(1, 0), answered(1, 150_000, 0, "degraded(late)")]
        lags = history.Lags()
        lags._samples[7] = ([-10_000, 100_000, 200_000], [5_000, 5_000, 45_000])
        verdict = self.check(late, lags=lags.of(7))
        self.assertEqual(verdict.complaints, [])
        self.assertEqual((verdict.over_bound, verdict.over_bound_unexplained), (1, 0))
        self.assertEqual(verdict.worst_overrun_ms, 50.0)
        lags._samples[7] = ([-10_000, 100_000, 200_000], [5_000, 5_000, 15_000])
        self.complains(late, "50.0 ms beyond the deadline, 10.0 ms of them not running",
                       lags=lags.of(7))

    def test_a_decision_that_is_off_by_one_bit(self):
        for wrong in (("4", "0x1.000002p-1", UNSURE), ("3", "0x1p-1", UNSURE),
                      ("4", "0x1p-1", "0x1.800002p-1")):
            lines = [*good(9), begun(9, 1_010_000), answered(9, 1_011_000, 2, decision=wrong)]
            self.assertEqual(self.complains(lines, "id 9, picture 1: wanted").compared, 9)

    def test_ok_without_being_sure(self):
        self.complains([begun(1, 0), answered(1, 500, 0)], "ok at exit 0 with entropy 0.7500")
        self.complains([begun(1, 0), answered(1, 500, 1)], "ok at exit 1 with entropy 0.7500")
        self.assertEqual(self.check([begun(1, 0), answered(1, 500, 2)]).complaints, [])
        unsure = [begun(1, 0), answered(1, 500, 0, "degraded(late)")]
        self.assertEqual(self.check(unsure).complaints, [])

    def test_a_tier_that_does_not_have_the_exit_and_reasons_that_do_not_exist(self):
        self.complains([begun(1, 0), answered(1, 500, 2, tier="edge")], "exit 2 of tier 'edge'")
        self.complains([begun(1, 0), answered(1, 500, 0, "degraded(lazy)")], "status")

    def test_recovery(self):
        """The cloud is gone from 100 ms to 3100 ms after the start; healed is at 1000 ms."""
        lines = []
        for number in range(5000):
            at = 1_000_000 + number * 1000
            gone = 100 <= number < 3100 and number % 2
            lines += [begun(number, at)]
            lines += [answered(number, at + 900, 0, "degraded(disconnected)") if gone
                      else answered(number, at + 900, 0 if number % 2 == 0 else 2)]
        verdict = self.complains(lines, "wanted to be well again within 2000 ms, found 2101 ms",
                                 healed_us=[2_000_000])
        self.assertEqual(verdict.recovery_ms, [2101.0])
        self.assertEqual(self.check(lines, healed_us=[2_500_000]).complaints, [])
        self.complains(lines[:6000], "did not recover", healed_us=[2_000_000])


if __name__ == "__main__":
    unittest.main()
