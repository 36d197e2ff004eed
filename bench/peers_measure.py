"""Engines as processes that take turns on the same cores. Protocol: bench/network_bench.cpp."""

import ctypes
import os
import signal
import statistics
import subprocess
import time

WARM_UP_RUNS = 4
CHUNKS = 8  # a turn is asked for in pieces, so that it ends in time where an engine has slowed down
LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1


def prepare_child(cpus):
    """Pins, and sees to it that no stopped process outlives this program."""
    os.sched_setaffinity(0, cpus)
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)



class EngineError(Exception):
    """An engine that does not start, or stops in the middle: one line."""


class Engine:
    """A process that is stopped (SIGSTOP) but when it is asked, so that threads which spin while
    they wait take nothing from the others."""

    def __init__(self, name, command, cpus, threads):
        self.name = name
        environment = dict(os.environ, OMP_NUM_THREADS=str(threads))
        self.process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
            preexec_fn=lambda: prepare_child(cpus),
        )
        try:
            self.version = self.read()[2]
        except EngineError:
            self.close()
            raise

    def read(self):
        line = self.process.stdout.readline().strip()
        if not line or line.startswith("error "):
            raise EngineError(line.removeprefix("error ") or "ended without an answer")
        return line.split()

    def ask(self, line):
        """The words of the answer, less the first."""
        self.process.send_signal(signal.SIGCONT)
        answer = self.ask_awake(line)
        self.process.send_signal(signal.SIGSTOP)
        return answer

    def ask_awake(self, line):
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise EngineError("ended without an answer") from None
        return self.read()[1:]

    def turn(self, runs, slice_s):
        """ms of each run, for slice_s seconds, asked for `runs` at a time."""
        found, end = [], time.monotonic() + slice_s
        self.process.send_signal(signal.SIGCONT)
        while not found or time.monotonic() < end:
            found += [int(ns) / 1e6 for ns in self.ask_awake(f"run {runs}")]
        self.process.send_signal(signal.SIGSTOP)
        return found

    def peak_kib(self):
        return int(self.ask("memory")[0])

    def close(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def alternate(engines, rounds, slice_s):
    """({name: [[ms of each run] of each round]}, {name: why it failed}). In every round each engine
    runs for about slice_s seconds; who begins changes from round to round. A first round, not
    reported, warms up."""
    runs, times, failures = {}, {engine.name: [] for engine in engines}, {}
    for number in range(rounds + 1):
        first = number % max(1, len(engines))
        for engine in engines[first:] + engines[:first]:
            name = engine.name
            try:
                if name not in failures and number == 0:
                    usual = min(engine.turn(WARM_UP_RUNS, 0))
                    runs[name] = max(1, round(slice_s * 1e3 / usual / CHUNKS))
                elif name not in failures:
                    times[name].append(engine.turn(runs[name], slice_s))
            except EngineError as error:
                failures[name] = str(error)
    return {name: found for name, found in times.items() if name not in failures}, failures


def summary(rounds):
    """Median and minimum over all runs, and the median of each round, in ms."""
    runs = [ms for times in rounds for ms in times]
    return {
        "median_ms": statistics.median(runs),
        "min_ms": min(runs),
        "runs": len(runs),
        "round_medians_ms": [statistics.median(times) for times in rounds],
    }


def footprint(name, command, cpus, threads, repeats):
    """Process start to first answer (median) and peak memory (largest), each in a fresh process."""
    starts, peaks = [], []
    for _ in range(repeats):
        begin = time.perf_counter()
        with Engine(name, command, cpus, threads) as engine:
            engine.ask("run 1")
            starts.append(1e3 * (time.perf_counter() - begin))
            peaks.append(engine.peak_kib())
    return {"start_ms": statistics.median(starts), "peak_kib": max(peaks)}
