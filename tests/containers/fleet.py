"""Device, edge and cloud as containers of a real engine, and what is seen of them.

A Fleet is a project of docker/compose.yaml with volumes and networks of its own; it ends with all
of them. It wants an engine that `docker` reaches, on this machine, and Compose v1 or v2.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import urllib.request

SOURCE = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(SOURCE / "tests"))
sys.path.insert(0, str(SOURCE / "tests" / "faults"))
import history  # noqa: E402
from lab import THRESHOLD, Failed, Watch, now_us, tail, wait_until, want  # noqa: E402,F401
from scene import draw_data_set  # noqa: E402

ALGORITHM = [f"-e{name}={value}" for name, value in history.ONE_ALGORITHM.items()]
IMAGE = os.environ.get("OFFRAMP_IMAGE", "offramp")
MODEL = "/usr/share/offramp/resnet20b.safetensors"  # in the image
PICTURES = 300
EXITS = 3
LEDGER = "/out"  # what devices write, in their containers
PORTS = {"OFFRAMP_EDGE_METRICS": "19110-19119", "OFFRAMP_CLOUD_METRICS": "19120-19129",
         "OFFRAMP_PROMETHEUS_PORT": "19090"}


def run(*command, check=True, environment=None):
    """Its standard output; raises Failed when it fails and `check`."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True,
                          env={**os.environ, **(environment or {})}, stdin=subprocess.DEVNULL)
    want(done.returncode == 0 or not check,
         f"{' '.join(map(str, command[:4]))}: {tail(done.stderr or done.stdout, 6)}")
    return done.stdout.strip()


def docker(*words, check=True):
    return run("docker", *words, check=check)


def inspect(container):
    return json.loads(docker("inspect", container))[0]


def compose_command():
    done = subprocess.run(["docker", "compose", "version"], capture_output=True)
    if done.returncode == 0:
        return ["docker", "compose"]
    want(shutil.which("docker-compose"), "wanted 'docker compose' or docker-compose, found neither")
    return ["docker-compose"]


class Container:
    """What one container is and does."""

    def __init__(self, name):
        self.name = name

    def inspect(self):
        return inspect(self.name)

    def state(self):
        return self.inspect()["State"]

    def pid(self):
        return self.state()["Pid"]

    def address(self):
        networks = self.inspect()["NetworkSettings"]["Networks"].values()
        return next(network["IPAddress"] for network in networks)

    def exec(self, *words, check=True):
        return docker("exec", self.name, *words, check=check)

    def logs(self):
        done = subprocess.run(["docker", "logs", self.name], capture_output=True, text=True)
        return done.stdout + done.stderr

    def ready(self):
        return self.exec("/usr/bin/offramp", "health", "9100", check=False) == "ready"

    def await_ready(self, seconds=20):
        wait_until(self.ready, seconds, f"{self.name} ready: {tail(self.logs())}")
        return now_us()

    def metrics(self):
        """{'offramp_requests_total': 3.0, 'offramp_answers_total{exit="exit2",...}': ...}"""
        bindings = self.inspect()["NetworkSettings"]["Ports"]["9100/tcp"]
        with urllib.request.urlopen(f"http://127.0.0.1:{bindings[0]['HostPort']}/metrics") as page:
            lines = page.read().decode().splitlines()
        pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name: float(value) for name, _, value in pairs}

    def has_link(self):
        """Whether one to the next tier is up."""
        return any(value == 1 and name.startswith("offramp_link_state{") and 'state="up"' in name
                   for name, value in self.metrics().items())

    def limit(self, *files):
        """What stands in the first of these files that its control group has (version 2 or 1)."""
        for file in files:
            text = self.exec("cat", f"/sys/fs/cgroup/{file}", check=False)
            if text:
                return text
        raise Failed(f"{self.name}: wanted one of {files} in its control group, found none")


class Device:
    """offramp run in the device's container, with its history."""

    def __init__(self, fleet, seconds, name="device", every="4ms", deadline_ms=1000, more=(),
                 following="edge:5555"):
        self.fleet, self.seconds, self.deadline_ms = fleet, seconds, deadline_ms
        self.history = fleet.out / f"{name}.csv"
        self.log = fleet.out / f"{name}.log"
        self.name = f"{fleet.project}-{name}"
        arguments = ["--duration", f"{seconds}s", "--every", every, "--json", "-v",
                     "--deadline", f"{deadline_ms}ms", "--history", f"{LEDGER}/{name}.csv", *more]
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(fleet.device_command(self.name, following, arguments),
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            env=fleet.environment)
        wait_until(lambda: "next tier connected" in self.said() or self.process.poll() is not None,
                   60, f"{self.name} connected")
        want("next tier connected" in self.said(), f"{self.name}: {tail(self.said())}")
        self.pid = inspect(self.name)["State"]["Pid"]
        fleet.watch.follow(self.pid)

    def said(self):
        return self.log.read_text(errors="replace")

    def finish(self):
        code = self.process.wait(self.seconds + 60)
        want(code in (0, 69), f"{self.name} ended with {code}: {tail(self.said())}")
        return history.read(self.history)


class Fleet:
    _offline = None

    def __init__(self, *files, environment=None, thresholds=THRESHOLD, data=None):
        self.project = f"offramp-test-{os.getpid()}"
        self.files = ["compose.yaml", *files]
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="offramp-containers."))
        self.folder.chmod(0o755)
        self.data, self.out = self.folder / "data", self.folder / "out"
        self.out.mkdir()
        self.out.chmod(0o777)  # the image's user is none of this machine's
        if data:
            self.data = pathlib.Path(data).resolve()
        else:
            self.data.mkdir()
            draw_data_set(self.data, PICTURES)
        self.configure(thresholds)
        self.environment = {**os.environ, **PORTS, "OFFRAMP_IMAGE": IMAGE,
                            "COMPOSE_HTTP_TIMEOUT": "180", **(environment or {})}
        self.command = [*compose_command(), "-p", self.project]
        for file in self.files:
            self.command += ["-f", str(SOURCE / "docker" / file)]
        self.command += ["-f", str(self.folder / "overlay.json")]
        self.watch = Watch()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self.watch.close()
        if kind and os.environ.get("OFFRAMP_KEEP"):
            print(f"kept: {self.folder} and the project {self.project}", file=sys.stderr)
            return
        running = docker("ps", "-aq", "--filter", f"name={self.project}", check=False).split()
        if running:
            docker("rm", "-f", *running, check=False)
        self.compose("down", "--volumes", "--remove-orphans", check=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    def configure(self, thresholds, edge=None, everywhere=history.ONE_ALGORITHM):
        """Beside what the project's files say, for containers that `up` makes from now on: the
        thresholds of all tiers, and more of the environment of the edge and of all tiers. What is
        only measured, and not compared bit for bit, needs nothing `everywhere`."""
        of_nodes = {"OFFRAMP_NODE_THRESHOLDS": str(thresholds), **everywhere}
        (self.folder / "overlay.json").write_text(json.dumps({"services": {
            "edge": {"environment": {**of_nodes, **(edge or {})}},
            "cloud": {"environment": of_nodes},
            "device": {"environment": {"OFFRAMP_RUN_THRESHOLDS": str(thresholds),
                                       **everywhere}},
        }}))

    def compose(self, *words, check=True):
        return run(*self.command, *words, check=check, environment=self.environment)

    def up(self, *words):
        """Starts services (and options of `up`); those that are nodes are ready then, and edges have met
        a cloud that is started with them: they are ready before, and answer with what they have."""
        self.compose("up", "-d", "--no-build", *words)
        for service in ("cloud", "edge"):
            if service in words:
                for node in self.nodes(service):
                    node.await_ready()
        if {"cloud", "edge"} <= set(words):
            for edge in self.nodes("edge"):
                wait_until(edge.has_link, 30, f"{edge.name} has met the cloud")

    def nodes(self, service):
        found = self.compose("ps", "-q", service).split()
        want(found, f"no container of {service}")
        return [Container(one) for one in found]

    def node(self, service):
        return self.nodes(service)[0]

    def device_command(self, name, following, arguments):
        return [*self.command, "run", "--rm", "-T", "--name", name, "--no-deps",
                "-v", f"{self.data}:/data:ro", "-v", f"{self.out}:{LEDGER}", "device", "run",
                "--next", following, "--keys", "/keys/device", "--wait", "30s", "--data", "/data",
                *arguments]

    def device(self, *arguments, **options):
        return Device(self, *arguments, **options)

    def flood(self, seconds=30):
        """Hundreds of requests at once for the edge, from a container with the device's key."""
        command = ["docker", "run", "--rm", "--name", f"{self.project}-flood",
                   "--network", f"{self.project}_tiers",
                   "-v", f"{self.project}_device-keys:/keys/device:ro", IMAGE, "load",
                   "--next", "edge:5555", "--keys", "/keys/device", "--connections", "60",
                   "--concurrency", "480", "--all", "--duration", f"{seconds}s"]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def offramp(self, *words):
        """Runs the image's program beside all containers, with this fleet's folders."""
        return docker("run", "--rm", "--network", "none", *ALGORITHM, "-v",
                      f"{self.folder}:{self.folder}", IMAGE, *words)

    def offline(self):
        """The cascade's answers in one process, at every exit."""
        if Fleet._offline is None:
            program = self.folder / "offramp"
            program.write_text("#!/bin/sh\nexec docker run --rm --network none "
                               f"{' '.join(ALGORITHM)} -v {self.folder}:{self.folder} "
                               f"{IMAGE} \"$@\"\n")
            program.chmod(0o755)
            Fleet._offline = history.offline(program, MODEL, self.data, EXITS, self.out)
        return Fleet._offline

    def judge(self, device, **more):
        """Checks a device's history; raises Failed, or returns the Verdict."""
        verdict = history.check(device.finish(), deadline_ms=device.deadline_ms,
                                threshold=THRESHOLD, offline=self.offline(),
                                lags=self.watch.lags.of(device.pid), **more)
        first = "; ".join(verdict.complaints[:4])
        want(not verdict.complaints, f"{first} [{verdict.text()}]")
        return verdict
