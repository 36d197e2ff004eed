"""What tests in Python set up around the program: drawn pictures, keys for each tier, and processes
of it beside them."""

import functools
import json
import math
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time

SOURCE = pathlib.Path(__file__).resolve().parent.parent
BINARY = pathlib.Path(os.environ.get("OFFRAMP_BINARY", SOURCE / "build" / "release" / "offramp"))
BUILD = pathlib.Path(os.environ.get("OFFRAMP_BUILD", BINARY.parent))
CPP_TESTS = pathlib.Path(os.environ.get("OFFRAMP_CPP_TESTS", BUILD / "tests" / "offramp_tests"))
CHAOS_PROXY = pathlib.Path(os.environ.get("OFFRAMP_CHAOS_PROXY", BUILD / "tests" / "chaos_proxy"))
WIRE_TWIN = pathlib.Path(os.environ.get("OFFRAMP_WIRE_TWIN", BUILD / "tests" / "wire_twin"))
MODEL = SOURCE / "weights" / "resnet20b.safetensors"

SIDE = 32
START_SECONDS = 60
PAGE = os.sysconf("SC_PAGE_SIZE")


class Failed(AssertionError):
    """The requirement is not met: one line, and the exit code of the program that says so."""

    def __init__(self, line, code=1):
        super().__init__(line)
        self.code = max(1, code)


def want(condition, what):
    if not condition:
        raise Failed(what)


def require(*programs):
    """Ends a test of programs that are not built."""
    for program in programs:
        if not os.access(program, os.X_OK):
            name = pathlib.Path(sys.argv[0]).stem
            sys.exit(f"{name}: wanted the program, found none at {program}")


# ---- pictures and keys ---------------------------------------------------------------------------


def drawn_picture(rng):
    """A gradient with blobs and noise, as CIFAR-10 stores it: three planes of 32 rows."""
    angle, noise = rng.uniform(0, 2 * math.pi), rng.choice((0, 4, 12, 40))
    dark, bright = [[rng.uniform(0, 255) for _ in range(3)] for _ in range(2)]
    blobs = [
        (
            rng.uniform(0, SIDE),
            rng.uniform(0, SIDE),
            rng.uniform(2, 10),
            [rng.uniform(-160, 160) for _ in range(3)],
        )
        for _ in range(rng.randrange(6))
    ]
    planes = bytearray()
    for channel in range(3):
        for y in range(SIDE):
            for x in range(SIDE):
                along = 0.5 + ((x - 16) * math.cos(angle) + (y - 16) * math.sin(angle)) / 46
                value = dark[channel] + (bright[channel] - dark[channel]) * along
                for cx, cy, radius, colour in blobs:
                    distance = ((x - cx) ** 2 + (y - cy) ** 2) / radius**2
                    if distance < 4:
                        value += colour[channel] * math.exp(-distance)
                value += noise * rng.uniform(-1, 1)
                planes.append(min(255, max(0, round(value))))
    return bytes(planes)


@functools.lru_cache
def drawn_data_set(count):
    rng = random.Random(20)
    return b"".join(bytes([i % 10]) + drawn_picture(rng) for i in range(count))


def draw_data_set(folder, count):
    """`count` pictures of CIFAR-10's form, always the same, under labels that mean nothing."""
    (folder / "test_batch.bin").write_bytes(drawn_data_set(count))


def make_keys(folder):
    """A folder of keys for each tier in folder/keys, as --keys and Node want them."""
    keys = folder / "keys"
    keys.mkdir()
    subprocess.run([BINARY, "keygen", "--tiers", keys], check=True)
    return keys


# ---- processes -----------------------------------------------------------------------------------


def tail(text, lines=3):
    return " | ".join(text.strip().splitlines()[-lines:])


def wait_until(condition, seconds, what):
    end = time.monotonic() + seconds
    while not condition():
        want(time.monotonic() < end, f"waited {seconds:g} s: {what}")
        time.sleep(0.01)


def address_of(peer):
    """Of a Node, of a Proxy, or the address itself."""
    return peer if isinstance(peer, str) else peer.address


class Child:
    """A process whose stderr is kept in a file. As a context, it is to end with exit code 0 on
    SIGTERM."""

    def __init__(self, name, command, folder, environment=None, stdin=subprocess.DEVNULL,
                 stdout=None):
        self.name = name
        self._log = folder / f"{name}.log"
        with open(self._log, "ab") as log, open(folder / f"{name}.out", "wb") as out:
            self._begin = log.tell()  # after what others of this name have said
            self.process = subprocess.Popen(
                [str(word) for word in command],
                stdin=stdin,
                stdout=stdout or out,
                stderr=log,
                env={**os.environ, **(environment or {})},
                text=True,
            )
        self.injected = False  # a death that the test has caused

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        try:
            if kind is None:
                self.stop()
        finally:
            self.end()

    @property
    def pid(self):
        return self.process.pid

    def alive(self):
        return self.process.poll() is None

    def await_file(self, path, seconds=START_SECONDS):
        """What the process writes into a file when it is ready. It does not live on without."""
        try:
            wait_until(lambda: path.exists() or not self.alive(), seconds, f"{self.name}: {path}")
            if not path.exists():
                raise Failed(f"{self.name} did not start: {tail(self.said())}",
                             self.process.returncode)
        except BaseException:
            self.end()
            raise
        return path.read_text().strip()

    def said(self):
        return self._log.read_bytes()[self._begin:].decode(errors="replace")

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

    def end(self):
        """In whatever state it is."""
        if self.alive():
            self.process.kill()
            self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                pipe.close()

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
            late = f"{self.name} did not end within {seconds:g} s: {tail(self.said())}"
            raise Failed(late) from None
        code = self.process.returncode
        if code not in codes:
            raise Failed(f"{self.name} ended with {code}: {tail(self.said())}", code)
        return time.monotonic()

    def rss_kib(self):
        return int(pathlib.Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * PAGE // 1024

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def cpu_seconds(self):
        """User and system time of all its threads so far."""
        fields = pathlib.Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Node(Child):
    """offramp node, which listens once the constructor returns. Its keys are those that make_keys()
    made in `folder`."""

    def __init__(self, folder, tier, following=None, more=(), listen="127.0.0.1:0", name=None,
                 model=MODEL, prefix=(), environment=None):
        name = name or tier
        self._arguments = dict(folder=folder, tier=tier, following=following, more=more, name=name,
                               model=model, prefix=prefix, environment=environment)
        port_file = folder / f"{name}.addr"
        port_file.unlink(missing_ok=True)
        command = [*prefix, BINARY, "node", "--tier", tier, "--listen", listen, "--model", model]
        command += ["--port-file", port_file, *more]
        if "--insecure" not in more:
            command += ["--keys", folder / "keys" / tier]
        if following:
            command += ["--next", address_of(following)]
        super().__init__(name, command, folder, environment)
        self.address = self.await_file(port_file).removeprefix("tcp://")

    def again(self):
        """Another one in its place, once it has gone."""
        return type(self)(listen=self.address, **self._arguments)

    def counters(self):
        """What the last line says once it has stopped: {"requests": 12, "answers": 12, ...}."""
        lines = [line for line in self.said().splitlines() if line.startswith("stopped: ")]
        want(lines, f"{self.name} did not say what it had done: {tail(self.said())}")
        found = re.findall(r"(\d+) ([a-z][a-z ]*)", lines[-1].split("(")[0])
        return {name.strip(): int(number) for number, name in found}


class QuietNode(Node):
    """One that is to have no reason for a word."""

    def __init__(self, folder, tier, threshold, following=None, more=()):
        super().__init__(folder, tier, following, ("--quiet", "--thresholds", threshold, *more))

    def stop(self, seconds=30):
        took = super().stop(seconds)
        want(not self.said(), f"{self.name}: wanted no word, found {self.said()}")
        return took


class Proxy(Child):
    """chaos_proxy in front of an address."""

    def __init__(self, folder, to, name="proxy", seed=1, more=()):
        port_file = folder / f"{name}.addr"
        port_file.unlink(missing_ok=True)
        command = [CHAOS_PROXY, "--listen", "127.0.0.1:0", "--to", address_of(to)]
        command += ["--seed", seed, "--port-file", port_file, *more]
        super().__init__(name, command, folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.address = self.await_file(port_file)

    def tell(self, command):
        """What it answers to a command."""
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def __call__(self, command):
        answer = self.tell(command)
        want(answer and not answer.startswith("error"), f"{self.name}: {answer or 'no answer'}")
        return answer

    def statistics(self):
        return json.loads(self("statistics"))
