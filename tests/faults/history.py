"""What became of each picture of a run, read and judged.

`offramp run --history` writes a line when a picture is begun and one when it is answered. Whatever
happened in between, check() wants of every picture: one answer, in time, from the exit that it
names exactly what one process says there, and "ok" only where the cascade ends.
"""

import bisect
import collections
import csv
import dataclasses
import os
import subprocess

# For all processes whose answers are compared: what is chosen without it may differ between the
# batch sizes of device, edge and cloud, and then the last bits do.
ONE_ALGORITHM = {"OFFRAMP_CONV": "winograd4"}

GRACE_US = 20_000  # beyond the deadline
TIERS = ("device", "edge", "cloud")
REASONS = {"no next tier", "disconnected", "late", "peer lost", "overloaded", "draining",
           "model mismatch", "expired", "refused"}
RUN = 20  # answers in a row that show that all is well again
WELL = 0.9  # of them


@dataclasses.dataclass
class Picture:
    id: int
    picture: int
    begun_us: int
    answered_us: int = 0
    answers: int = 0
    tier: str = ""
    exit: int = -1
    decision: tuple = ()  # label, probability, entropy as written
    status: str = ""
    total_us: int = 0

    @property
    def ok(self):
        return self.status == "ok"

    @property
    def took_us(self):
        return self.answered_us - self.begun_us


@dataclasses.dataclass
class History:
    pictures: list
    complaints: list


def read(path):
    """Reads a history. What is wrong with its form are complaints of the History."""
    pictures, complaints = {}, []
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            number = int(row["id"])
            if row["event"] == "begun":
                if number in pictures:
                    complaints.append(f"id {number} was begun twice")
                pictures[number] = Picture(number, int(row["picture"]), int(row["time_us"]))
                continue
            one = pictures.get(number)
            if one is None:
                complaints.append(f"id {number} was answered and not begun")
                continue
            one.answers += 1
            one.answered_us, one.tier = int(row["time_us"]), row["tier"]
            one.exit, one.status = int(row["exit"]), row["status"]
            one.decision = (row["label"], row["probability"], row["entropy"])
            one.total_us = int(row["total_us"])
    return History(list(pictures.values()), complaints)


class Lags:
    """How long processes' first threads were ready to run and did not, as the kernel counts it. In
    a device, that is the thread that answers."""

    def __init__(self):
        self._samples = collections.defaultdict(lambda: ([], []))  # pid -> times us, waited us

    def sample(self, pid, now_us):
        try:
            with open(f"/proc/{pid}/schedstat") as file:
                waited = int(file.read().split()[1]) // 1000
        except (OSError, IndexError, ValueError):
            return  # it has ended, or this kernel does not count
        times, waits = self._samples[pid]
        times.append(now_us)
        waits.append(waited)

    def of(self, pid):
        times, waits = self._samples[pid]

        def between(begin_us, end_us):
            if not times:
                return 0
            first = max(0, bisect.bisect_right(times, begin_us) - 1)
            last = min(len(times) - 1, bisect.bisect_left(times, end_us))
            return waits[last] - waits[first]

        return between


@dataclasses.dataclass
class Verdict:
    requests: int = 0
    outcomes: dict = dataclasses.field(default_factory=dict)
    handed_on: int = 0  # answered by another tier
    compared: int = 0  # answers found equal to one process, bit for bit
    worst_overrun_ms: float = 0.0  # beyond the deadline; negative when nothing came near it
    over_bound: int = 0  # later than the deadline and GRACE_US
    over_bound_unexplained: int = 0  # later even without the time it waited for a core
    recovery_ms: list = dataclasses.field(default_factory=list)  # of each healing; None: never
    complaints: list = dataclasses.field(default_factory=list)

    def text(self):
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.outcomes.items()))
        text = f"{self.requests} requests: {kinds}; worst {self.worst_overrun_ms:+.1f} ms"
        if self.over_bound:
            text += (f", {self.over_bound} over the bound, {self.over_bound_unexplained} of them "
                     "without the machine's help")
        if self.recovery_ms and None not in self.recovery_ms:
            text += f"; recovered in at most {max(self.recovery_ms):.0f} ms"
        return text


def offline(program, model, data, exits, folder, environment=None):
    """[exit][picture]: label, probability, entropy of the cascade in one process."""
    return [_offline_at(taken, program, model, data, exits, folder / f"offline-{taken}.csv",
                        environment) for taken in range(exits)]


def _offline_at(taken, program, model, data, exits, path, environment):
    thresholds = ",".join("0" if exit < taken else "1" for exit in range(exits - 1))
    subprocess.run([program, "eval", "--model", model, "--data", data, "--json",
                    "--thresholds", thresholds, "--decisions", path],
                   check=True, capture_output=True, env={**os.environ, **(environment or {})})
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if any(int(row["exit"]) != taken for row in rows):
        raise RuntimeError(f"wanted all of exit {taken}, found others")
    return [(row["label"], row["probability"], row["entropy"]) for row in rows]


def check(history, deadline_ms, threshold, offline, lags=None, healed_us=(), recover_ms=2000):
    """Judges a History. `healed_us` are times from which all is to be well again, within
    `recover_ms` (a number, or one for each); `lags(begin, end)` says how long the process was kept
    from running, in us."""
    verdict = Verdict(requests=len(history.pictures), complaints=list(history.complaints))
    outcomes = collections.Counter(one.status or "none" for one in history.pictures)
    verdict.outcomes = dict(outcomes)
    if not history.pictures:
        verdict.complaints.append("wanted requests, found none")
    worst = float("-inf")
    for one in history.pictures:
        if one.answers != 1:
            verdict.complaints.append(f"id {one.id}: wanted one outcome, found {one.answers}")
            continue
        over = max(one.took_us, one.total_us) - deadline_ms * 1000
        worst = max(worst, over)
        if over > GRACE_US:
            verdict.over_bound += 1
            kept = lags(one.begun_us, one.answered_us) if lags else 0
            if over - kept > GRACE_US:
                verdict.over_bound_unexplained += 1
                verdict.complaints.append(
                    f"id {one.id}: {over / 1000:.1f} ms beyond the deadline, {kept / 1000:.1f} ms "
                    f"of them not running ({one.status})")
        _judge_answer(one, threshold, offline, verdict)
    verdict.worst_overrun_ms = worst / 1000 if history.pictures else 0.0
    handed = [one for one in history.pictures if one.tier != "device" or not one.ok]
    verdict.handed_on = sum(one.tier != "device" for one in history.pictures)
    bounds = recover_ms if isinstance(recover_ms, list) else [recover_ms] * len(healed_us)
    for healed, bound in zip(healed_us, bounds, strict=True):
        took = recovery_ms(handed, healed)
        verdict.recovery_ms.append(took)
        if took is None:
            verdict.complaints.append("did not recover after a fault had ended")
        elif took > bound:
            verdict.complaints.append(
                f"wanted to be well again within {bound} ms, found {took:.0f} ms")
    return verdict


def _judge_answer(one, threshold, offline, verdict):
    last = len(offline) - 1
    where = f"id {one.id}, picture {one.picture}"
    if not 0 <= one.exit <= last or TIERS[one.exit] != one.tier:
        verdict.complaints.append(f"{where}: exit {one.exit} of tier {one.tier!r}")
        return
    expected = offline[one.exit][one.picture]
    if one.decision == expected:
        verdict.compared += 1
    else:
        verdict.complaints.append(f"{where}: wanted {expected} at exit {one.exit}, "
                                  f"found {one.decision}")
    entropy = float.fromhex(one.decision[2])
    if one.ok and one.exit != last and not entropy < threshold:
        verdict.complaints.append(f"{where}: ok at exit {one.exit} with entropy {entropy:.4f}")
    if not one.ok and one.status.removeprefix("degraded(").removesuffix(")") not in REASONS:
        verdict.complaints.append(f"{where}: status {one.status!r}")


def recovery_ms(handed, healed_us):
    """From `healed_us` to the first of a run of requests that are almost all ok."""
    handed = sorted(handed, key=lambda one: one.begun_us)
    first = bisect.bisect_left([one.begun_us for one in handed], healed_us)
    good = [one.ok for one in handed]
    for begin in range(first, len(handed) - RUN + 1):
        if good[begin] and sum(good[begin:begin + RUN]) >= WELL * RUN:
            return (handed[begin].begun_us - healed_us) / 1000
    return None
