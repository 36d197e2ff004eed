"""Processes of offramp, a chaos proxy between them, and what is seen of all while faults happen.

A row of the failure table (table.py) gets a Lab: a folder with keys and pictures in which it starts
nodes, devices and proxies. When it ends, so do they.
"""

import contextlib
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

TESTS = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS), str(TESTS.parent / "tools")]
import history  # noqa: E402
from scene import (BINARY, CPP_TESTS, MODEL, Child, Failed, Node, Proxy, address_of,  # noqa: E402
                   draw_data_set, make_keys, tail, wait_until, want)

PICTURES = 300
THRESHOLD = 0.5  # some of the drawn pictures then leave at every exit
EXITS = 3


class Skip(Exception):
    """This machine does not allow to find out."""


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def now_us():
    return time.monotonic_ns() // 1000


class Device(Child):
    """offramp run for a time, with its history."""

    def __init__(self, lab, following, seconds, name="device", every="4ms", deadline_ms=300,
                 wait="10s", more=(), prefix=(), environment=None):
        self.seconds, self.deadline_ms = seconds, deadline_ms
        self.history = lab.folder / f"{name}.csv"
        command = [*prefix, BINARY, "run", "--next", address_of(following), "--model", lab.model]
        command += ["--data", lab.data, "--duration", f"{seconds}s", "--every", every, "--json"]
        command += ["--deadline", f"{deadline_ms}ms", "--wait", wait, "--history", self.history]
        command += [*lab.thresholds(), "-v", *more]
        if "--insecure" not in more:
            command += ["--keys", lab.keys / "device"]
        super().__init__(name, command, lab.folder, {**lab.environment, **(environment or {})})

    def wait_for(self, text, seconds=20):
        wait_until(lambda: text in self.said() or not self.alive(), seconds, f"{self.name}: {text}")
        want(text in self.said(), f"{self.name} did not say {text!r}: {tail(self.said())}")

    def wait_connected(self):
        self.wait_for("next tier connected")

    def finish(self):
        """Its history, once it has come to its end by itself."""
        self.join(self.seconds + 60, codes=(0, 69))
        return history.read(self.history)


class Watch:
    """Memory and descriptors of processes, and how late the machine runs them."""

    EVERY, MEMORY_EVERY = 0.02, 5  # seconds, turns

    def __init__(self):
        self.children = []
        self.peaks = {}  # name -> [first KiB, largest KiB, largest number of descriptors]
        self.lags = history.Lags()
        self._followed = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def follow(self, pid):
        self._followed.append(pid)

    def _run(self):
        turn = 0
        while not self._over.wait(self.EVERY):
            for pid in list(self._followed):
                self.lags.sample(pid, now_us())
            turn += 1
            if turn % self.MEMORY_EVERY:
                continue
            for child in list(self.children):
                with contextlib.suppress(OSError, ValueError, IndexError):
                    rss, descriptors = child.rss_kib(), child.descriptors()
                    if rss == 0:
                        continue
                    first, most, files = self.peaks.get(child.name, (rss, 0, 0))
                    self.peaks[child.name] = (first, max(most, rss), max(files, descriptors))

    def close(self):
        self._over.set()
        self._thread.join()


class Lab:
    _offline = {}

    def __init__(self, threshold=THRESHOLD, environment=None):
        self.environment = {**history.ONE_ALGORITHM, **(environment or {})}  # of all processes
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="offramp-faults."))
        self.threshold, self.model, self.exits = threshold, MODEL, EXITS
        self.children, self._undo = [], []
        self.keys = make_keys(self.folder)
        self.data = self.folder / "data"
        self.data.mkdir()
        draw_data_set(self.data, PICTURES)
        self.watch = Watch()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        try:
            # Each of these is done, the last first, whatever becomes of the others.
            with contextlib.ExitStack() as end:
                end.callback(self._leave_folder, kept=kind and os.environ.get("OFFRAMP_KEEP"))
                for undo in self._undo:
                    end.callback(undo)
                for child in self.children:
                    end.callback(child.end)
                end.callback(self.watch.close)
        except Exception as failure:
            if kind is None:
                raise
            print(f"while ending: {failure}", file=sys.stderr)  # the row's own failure is told

    def _leave_folder(self, kept):
        if kept:
            print(f"kept: {self.folder}", file=sys.stderr)
        else:
            shutil.rmtree(self.folder, ignore_errors=True)

    def at_end(self, undo):
        """To be called when all processes have ended, before what was to be undone earlier."""
        self._undo.append(undo)

    def thresholds(self):
        return ("--thresholds", self.threshold)

    def node(self, tier, following=None, more=(), environment=None, **options):
        return self._watched(
            Node(self.folder, tier, following, model=self.model,
                 more=(*self.thresholds(), *more),
                 environment={**self.environment, **(environment or {})}, **options))

    def again(self, node):
        return self._watched(node.again())

    def _watched(self, node):
        self.children.append(node)
        self.watch.children.append(node)
        return node

    def device(self, *arguments, **options):
        device = Device(self, *arguments, **options)
        self.children.append(device)
        self.watch.follow(device.pid)
        return device

    def proxy(self, to, **options):
        proxy = Proxy(self.folder, to, **options)
        self.children.append(proxy)
        return proxy

    def tiers(self, **edge):
        """A cloud, and an edge that leads to it."""
        cloud = self.node("cloud")
        return cloud, self.node("edge", cloud, **edge)

    def offline(self):
        """The cascade's answers in one process, [exit][picture]: label, probability, entropy."""
        # Models of a lab's own are as short-lived as its folder; all else is the same in every lab.
        key = (self.model, *self.environment.items())
        if key not in Lab._offline:
            Lab._offline[key] = history.offline(BINARY, self.model, self.data, self.exits,
                                                self.folder, self.environment)
        return Lab._offline[key]

    def judge(self, device, **more):
        """Checks a device's history; raises Failed, or returns its figures."""
        verdict = history.check(device.finish(), deadline_ms=device.deadline_ms,
                                threshold=self.threshold, offline=self.offline(),
                                lags=self.watch.lags.of(device.pid), **more)
        first = "; ".join(verdict.complaints[:4])
        want(not verdict.complaints, f"{first} [{verdict.text()}]")
        self.only_injected_deaths()
        return verdict

    def only_injected_deaths(self):
        for child in self.children:
            code = child.process.poll()
            if isinstance(child, (Node, Proxy)) and code not in (None, 0) and not child.injected:
                raise Failed(f"{child.name} died with {code}: {tail(child.said())}")


def cpp_tests(*cases):
    """Runs test cases of offramp_tests by name; says how many assertions they made."""
    want(os.access(CPP_TESTS, os.X_OK), f"wanted the C++ tests, found none at {CPP_TESTS}")
    names = ",".join(case.replace(",", "*") for case in cases)  # a comma would end a name
    done = subprocess.run([CPP_TESTS, f"--test-case={names}", "--no-intro", "--no-colors"],
                          capture_output=True, text=True, timeout=300)
    found = re.search(r"test cases:\s*(\d+) \|\s*(\d+) passed", done.stdout)
    want(found, f"offramp_tests said {tail(done.stdout + done.stderr)!r}")
    want(int(found[1]) == len(cases), f"wanted {len(cases)} test cases, found {found[1]}")
    want(done.returncode == 0, f"offramp_tests: {tail(done.stdout, 12)}")
    asserts = re.search(r"assertions:\s*(\d+)", done.stdout)
    return f"{len(cases)} C++ tests, {asserts[1]} checks"
