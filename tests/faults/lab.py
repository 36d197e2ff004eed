"""Processes of offramp, a chaos proxy between them, and what is seen of all while faults happen.

A row of the failure table (rows.py) gets a Lab: a folder with keys and pictures in which it starts
nodes, devices and proxies. When it ends, so do they.
"""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

SOURCE = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(SOURCE / "tests"), str(SOURCE / "tools")]
import history  # noqa: E402
from scene import draw_data_set, make_keys  # noqa: E402

BUILD = SOURCE / "build" / "release"
PROGRAM = os.environ.get("OFFRAMP_BINARY", str(BUILD / "offramp"))
CPP_TESTS = os.environ.get("OFFRAMP_CPP_TESTS", str(BUILD / "tests" / "offramp_tests"))
CHAOS_PROXY = os.environ.get("OFFRAMP_CHAOS_PROXY", str(BUILD / "tests" / "chaos_proxy"))
MODEL = SOURCE / "weights" / "resnet20b.safetensors"

PICTURES = 300
THRESHOLD = 0.1  # some of the drawn pictures then leave at every exit
EXITS = 3
START_SECONDS = 60
PAGE = os.sysconf("SC_PAGE_SIZE")


class Failed(Exception):
    """The requirement is not met."""


class Skip(Exception):
    """This machine does not allow to find out."""


def want(condition, what):
    if not condition:
        raise Failed(what)


def wait_until(condition, seconds, what):
    end = time.monotonic() + seconds
    while not condition():
        want(time.monotonic() < end, f"waited {seconds:g} s: {what}")
        time.sleep(0.01)


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def now_us():
    return time.monotonic_ns() // 1000


class Child:
    """A process whose stderr is kept in a file."""

    def __init__(self, lab, name, command, environment=None, stdin=subprocess.DEVNULL, stdout=None):
        self.name = name
        self.log = lab.folder / f"{name}.log"
        self.out = lab.folder / f"{name}.out"
        with open(self.log, "ab") as log, open(self.out, "wb") as out:
            self.process = subprocess.Popen(
                [str(word) for word in command],
                stdin=stdin,
                stdout=stdout or out,
                stderr=log,
                env={**os.environ, **lab.environment, **(environment or {})},
                text=True,
            )
        self.injected = False  # a death that the test has caused
        lab.children.append(self)

    @property
    def pid(self):
        return self.process.pid

    def alive(self):
        return self.process.poll() is None

    def await_file(self, path):
        """Waits until the process has written a file, which it does when it is ready."""
        wait_until(lambda: path.exists() or not self.alive(), START_SECONDS, f"{self.name}: {path}")
        want(path.exists(), f"{self.name} did not start: {tail(self.said())}")

    def said(self):
        return self.log.read_text(errors="replace")

    def signal(self, number):
        if self.alive():
            self.process.send_signal(number)

    def pause(self):
        self.signal(signal.SIGSTOP)

    def resume(self):
        self.signal(signal.SIGCONT)

    def kill(self):
        self.injected = True
        self.signal(signal.SIGKILL)
        self.process.wait()

    def stop(self, seconds=30):
        """SIGTERM; returns how long it took to end, with exit code 0."""
        begin = time.monotonic()
        self.signal(signal.SIGTERM)
        return self.join(seconds) - begin

    def join(self, seconds, codes=(0,)):
        """Waits for its end; returns when that was."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Failed(f"{self.name} did not end within {seconds:g} s: {tail(self.said())}")
        code = self.process.returncode
        want(code in codes, f"{self.name} ended with {code}: {tail(self.said())}")
        return time.monotonic()

    def rss_kib(self):
        return int(pathlib.Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * PAGE // 1024

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def cpu_seconds(self):
        fields = pathlib.Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def tail(text, lines=3):
    return " | ".join(text.strip().splitlines()[-lines:])


class Node(Child):
    """offramp node, which listens once the constructor returns."""

    def __init__(self, lab, tier, following=None, listen=None, name=None, more=(), prefix=(),
                 environment=None, host="127.0.0.1"):
        name = name or tier
        self.arguments = dict(tier=tier, following=following, name=name, more=more, prefix=prefix,
                              environment=environment, host=host)
        port_file = lab.folder / f"{name}.addr"
        port_file.unlink(missing_ok=True)
        command = [*prefix, PROGRAM, "node", "--tier", tier, "--listen", listen or f"{host}:0"]
        command += ["--model", lab.model, "--port-file", port_file, *lab.thresholds(), *more]
        if "--insecure" not in more:
            command += ["--keys", lab.keys / tier]
        if following:
            command += ["--next", following if isinstance(following, str) else following.address]
        super().__init__(lab, name, command, environment)
        self.await_file(port_file)
        self.address = port_file.read_text().strip().removeprefix("tcp://")

    def again(self, lab):
        """Another one in its place, once it has gone."""
        return Node(lab, listen=self.address, **self.arguments)

    def counters(self):
        """What the last line says once it has stopped: {"requests": 12, "answers": 12, ...}."""
        lines = [line for line in self.said().splitlines() if line.startswith("stopped: ")]
        want(lines, f"{self.name} did not say what it had done: {tail(self.said())}")
        found = re.findall(r"(\d+) ([a-z][a-z ]*)", lines[-1].split("(")[0])
        return {name.strip(): int(number) for number, name in found}


class Proxy(Child):
    """chaos_proxy in front of an address."""

    def __init__(self, lab, to, name="proxy", seed=1, listen="127.0.0.1:0", prefix=()):
        port_file = lab.folder / f"{name}.addr"
        port_file.unlink(missing_ok=True)
        command = [*prefix, CHAOS_PROXY, "--listen", listen, "--to", to]
        command += ["--seed", seed, "--port-file", port_file]
        super().__init__(lab, name, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.await_file(port_file)
        self.address = port_file.read_text().strip()

    def __call__(self, command):
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        want(not answer.startswith("error"), f"{self.name}: {answer}")
        return answer

    def statistics(self):
        return json.loads(self("statistics"))


class Device(Child):
    """offramp run for a time, with its history."""

    def __init__(self, lab, following, seconds, name="device", every="4ms", deadline_ms=300,
                 wait="10s", more=(), prefix=(), environment=None):
        self.deadline_ms = deadline_ms
        self.history = lab.folder / f"{name}.csv"
        address = following if isinstance(following, str) else following.address
        command = [*prefix, PROGRAM, "run", "--next", address, "--model", lab.model]
        command += ["--data", lab.data, "--duration", f"{seconds}s", "--every", every, "--json"]
        command += ["--deadline", f"{deadline_ms}ms", "--wait", wait, "--history", self.history]
        command += [*lab.thresholds(), "-v", *more]
        if "--insecure" not in more:
            command += ["--keys", lab.keys / "device"]
        super().__init__(lab, name, command, environment)
        self.seconds = seconds
        lab.watch.follow(self.pid)

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
        self.environment = environment or {}  # of all processes
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="offramp-faults."))
        self.threshold, self.model, self.exits = threshold, MODEL, EXITS
        self.children, self._undo = [], []
        self.keys = self.folder / "keys"
        self.keys.mkdir()
        make_keys(PROGRAM, self.keys)
        self.data = self.folder / "data"
        self.data.mkdir()
        draw_data_set(self.data, PICTURES)
        self.watch = Watch()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self.watch.close()
        for child in self.children:
            if child.alive():
                child.resume()
                child.process.kill()
                child.process.wait()
            for pipe in (child.process.stdin, child.process.stdout):
                if pipe:
                    pipe.close()
        for undo in reversed(self._undo):
            undo()
        if kind is None or not os.environ.get("OFFRAMP_KEEP"):
            shutil.rmtree(self.folder, ignore_errors=True)
        else:
            print(f"kept: {self.folder}", file=sys.stderr)

    def at_end(self, undo):
        self._undo.append(undo)

    def thresholds(self):
        return ("--thresholds", str(self.threshold))

    def node(self, *arguments, **options):
        node = Node(self, *arguments, **options)
        self.watch.children.append(node)
        return node

    def device(self, *arguments, **options):
        return Device(self, *arguments, **options)

    def proxy(self, *arguments, **options):
        return Proxy(self, *arguments, **options)

    def again(self, node):
        fresh = node.again(self)
        self.watch.children.append(fresh)
        return fresh

    def tiers(self, **edge):
        """A cloud, and an edge that leads to it."""
        cloud = self.node("cloud")
        return cloud, self.node("edge", cloud, **edge)

    def offline(self):
        """The cascade's answers in one process, at every exit."""
        # Models of a lab's own are as short-lived as its folder; all else is the same in every lab.
        key = (self.model, *self.environment.items())
        if key not in Lab._offline:
            Lab._offline[key] = history.offline(PROGRAM, self.model, self.data, self.exits,
                                                self.folder, {**os.environ, **self.environment})
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



def need(tool, package):
    if not shutil.which(tool):
        raise Skip(f"wanted {tool} (Debian: {package}), found none")


def need_root():
    if os.geteuid() != 0:
        raise Skip("wanted root, found another user")


class Namespaces:
    """Two or more network namespaces on one bridge in a namespace of its own: 10.77.0.1, .2, ..."""

    def __init__(self, lab, *names):
        need_root()
        need("ip", "iproute2")
        need("iptables", "iptables")
        tag = f"ofr{os.getpid()}"
        self.names = {name: f"{tag}{name}" for name in names}
        self.hub = f"{tag}hub"
        lab.at_end(self.remove)
        try:
            self._ip("netns", "add", self.hub)
            self._ip("-n", self.hub, "link", "add", "bridge", "type", "bridge")
            self._ip("-n", self.hub, "link", "set", "bridge", "up")
            for number, name in enumerate(names, 1):
                self._add(name, number)
        except (OSError, subprocess.CalledProcessError) as error:
            said = getattr(error, "stderr", "") or error
            raise Skip(f"wanted network namespaces, found: {str(said).strip()}")

    def _add(self, name, number):
        space = self.names[name]
        self._ip("netns", "add", space)
        self._ip("-n", self.hub, "link", "add", f"v{number}", "type", "veth",
                 "peer", "name", "eth0", "netns", space)
        self._ip("-n", self.hub, "link", "set", f"v{number}", "master", "bridge")
        self._ip("-n", self.hub, "link", "set", f"v{number}", "up")
        self._ip("-n", space, "addr", "add", f"10.77.0.{number}/24", "dev", "eth0")
        self._ip("-n", space, "link", "set", "eth0", "up")
        self._ip("-n", space, "link", "set", "lo", "up")

    @staticmethod
    def _ip(*words):
        subprocess.run(["ip", *words], check=True, capture_output=True, text=True)

    def prefix(self, name):
        return ("ip", "netns", "exec", self.names[name])

    def address(self, name):
        return f"10.77.0.{list(self.names).index(name) + 1}"

    def iptables(self, name, *rule):
        done = subprocess.run([*self.prefix(name), "iptables", "-w", *rule], capture_output=True,
                              text=True)
        if done.returncode != 0:
            raise Skip(f"wanted iptables {' '.join(rule)}, found: {tail(done.stderr)}")

    def remove(self):
        for space in (*self.names.values(), self.hub):
            subprocess.run(["ip", "netns", "del", space], capture_output=True)


class Limited:
    """A group of processes with a limit of memory or of CPU time (cgroup version 1 or 2)."""

    def __init__(self, lab, controller, settings):
        need_root()
        root = pathlib.Path("/sys/fs/cgroup")
        one = root / controller
        self.version = 1 if (one / "tasks").exists() else 2
        top = one if self.version == 1 else root
        name = f"offramp-faults-{os.getpid()}-{controller}"
        self.folder = top / name
        try:
            if self.version == 2:
                (root / "cgroup.subtree_control").write_text(f"+{controller}")
            self.folder.mkdir(exist_ok=True)
            for key, value in settings[self.version - 1].items():
                (self.folder / key).write_text(str(value))
        except OSError as error:
            raise Skip(f"wanted a cgroup with the controller {controller}, found: {error}")
        lab.at_end(self._remove)

    def prefix(self):
        return ("sh", "-c", f'echo $$ > {self.folder}/cgroup.procs && exec "$0" "$@"')

    def _remove(self):
        with contextlib.suppress(OSError):
            self.folder.rmdir()
