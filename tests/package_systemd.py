#!/usr/bin/env python3
"""Debian's package under a systemd that runs: a Debian 12 booted in namespaces of its own
(systemd-nspawn), with nothing but loopback. Installed there with apt, enabled, killed, reloaded,
stopped under load, booted again, upgraded, purged. tools/package_tests.sh builds and starts it."""

import contextlib
import json
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import tempfile

from package_chroot import (
    ADDRESSES,
    CLEAN,
    METRICS,
    PATIENCE,
    SAMPLES,
    Debian,
    child_of,
    labels,
    script,
    step,
)
from package_test import make_packages
from scene import Failed, tail, want, wait_until

CGROUPS = pathlib.Path("/sys/fs/cgroup")
UNITS = {tier: f"offramp-node@{tier}" for tier in ADDRESSES}
KEYS = "/etc/offramp/keys"
BECOME = ["runuser", "-u", "_offramp", "--"]
UNAVAILABLE = 69
# Four times the unit's RestartSec: what is not back by then does not come.
RESTART_SECONDS = 20


# A command inside that takes longer hangs.
COMMAND_SECONDS = 120


@contextlib.contextmanager
def own_cgroup():
    """The unified hierarchy, which systemd wants, and a group in it that this process is in. Where
    controllers belong to the older one, systemd does without them."""
    unified = subprocess.run(["stat", "-fc", "%T", CGROUPS], capture_output=True, text=True)
    if unified.stdout.strip() != "cgroup2fs":
        subprocess.run(["umount", "--recursive", "--lazy", CGROUPS], check=True)
        subprocess.run(["mount", "-t", "cgroup2", "cgroup2", CGROUPS], check=True)
    mine = pathlib.Path("/proc/self/cgroup").read_text().rpartition("0::/")[2].strip()
    group = pathlib.Path(tempfile.mkdtemp(prefix="offramp-", dir=CGROUPS))
    try:
        (group / "cgroup.procs").write_text("0")
        yield
    finally:
        (CGROUPS / mine / "cgroup.procs").write_text("0")
        wait_until(lambda: removed(group), PATIENCE, f"{group} is empty")


def removed(group):
    """What ends has its group for a moment more. This process is the first of its namespace, and so the
    parent of what others left behind; nobody else reaps it."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    with contextlib.suppress(OSError):
        for folder, _, _ in os.walk(group, topdown=False):
            os.rmdir(folder)
    return not group.exists()


def is_init(pid):
    """Whether it is the first process of a namespace: before that, systemd-nspawn's child is still
    on this side."""
    with contextlib.suppress(OSError, StopIteration):
        lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
        ids = next(line for line in lines if line.startswith("NSpid:")).split()[1:]
        return len(ids) > 1 and ids[-1] == "1"
    return False


class Machine:
    """A Debian that systemd runs, while the context lasts; powered off at its end."""

    def __init__(self, debian):
        self.debian = debian

    def __enter__(self):
        command = ["systemd-nspawn", "--quiet", "--directory", self.debian.root, "--boot"]
        command += ["--register=no", "--keep-unit", "--private-network", "--console=pipe"]
        command += ["--resolv-conf=off", "--timezone=off", "--link-journal=no"]
        self.log = tempfile.TemporaryFile("w+")
        streams = {"stdin": subprocess.DEVNULL, "stdout": self.log, "stderr": self.log}
        self.nspawn = subprocess.Popen(command, **streams)
        self.leader = None
        try:
            wait_until(self.running, PATIENCE, "systemd has started everything")
        except BaseException:
            self.end()
            raise
        return self

    def end(self):
        """Whatever still runs: systemd would outlive systemd-nspawn."""
        if self.leader and is_init(self.leader):
            os.kill(int(self.leader), signal.SIGKILL)
        self.nspawn.kill()
        self.nspawn.wait()

    def running(self):
        if self.nspawn.poll() is not None:
            self.log.seek(0)
            raise Failed(f"systemd-nspawn ended: {tail(self.log.read())}")
        self.leader = child_of(self.nspawn)
        if not is_init(self.leader):
            return False
        state = self.said("systemctl", "is-system-running")
        if state == "degraded":
            raise Failed(f"a unit failed: {self.said('systemctl', '--failed', '--plain')}")
        return state == "running"

    def __exit__(self, kind, *_):
        off = None
        with contextlib.suppress(subprocess.TimeoutExpired):
            if kind is None:
                self.said("systemctl", "poweroff")
                off = self.nspawn.wait(PATIENCE)
            elif issubclass(kind, Failed):
                for unit in UNITS.values():
                    print(self.said("journalctl", "--no-pager", "--lines=8", "--unit", unit))
        self.end()
        want(kind is not None or off == 0, "the machine powers off when it is told to")

    def inside(self, command):
        return ["nsenter", "--all", "--target", self.leader, *command]

    def call(self, *command):
        streams = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
        return subprocess.run(self.inside(command), env=CLEAN, timeout=COMMAND_SECONDS, **streams)

    def said(self, *command):
        return self.call(*command).stdout.strip()

    def run(self, *command):
        done = self.call(*command)
        said = tail(done.stdout + done.stderr, 8)
        want(done.returncode == 0, f"{shlex.join(command)}: exit code {done.returncode}: {said}")
        return done.stdout

    def as_user(self, *command):
        return self.run(*BECOME, *command)

    def systemctl(self, verb, *tiers):
        return self.run("systemctl", verb, *(UNITS[tier] for tier in tiers))

    def property(self, tier, name):
        return self.said("systemctl", "show", "--value", "--property", name, UNITS[tier])

    def active(self, tier):
        return self.property(tier, "ActiveState") == "active"

    def classify(self, keys=f"{KEYS}/device"):
        """All samples, by the whole cascade; fails where a tier is not there."""
        rows = labels(self.as_user(*cascade(keys), "--wait", "10s"), 1)
        want(rows and all(name.startswith(f"{label}-") for name, label in rows),
             f"every sample is what its name says, found {rows}")
        return rows


def cascade(keys):
    """The command of a device that takes the whole cascade's answer or none."""
    command = ["offramp", "run", SAMPLES, "--thresholds", "0", "--policy", "strict"]
    return [*command, "--next", ADDRESSES["edge"], "--keys", keys]


def install(machine, deb):
    quiet = ["-qq", "-o", "Dpkg::Use-Pty=0", "--no-install-recommends"]
    machine.run("apt-get", *quiet, "install", deb)
    for tier in UNITS:
        want(not machine.active(tier), f"installing does not start {tier}")
    machine.as_user("offramp", "keygen", "--tiers", KEYS)


def start(machine):
    """As the README has it; systemctl comes back when the nodes say that they are ready."""
    machine.run("systemctl", "enable", "--now", *UNITS.values())
    for tier in UNITS:
        want(machine.active(tier), f"{tier} is active when systemctl comes back")
        machine.run("offramp", "health", METRICS[tier])
    return machine.classify()


def confined(machine, tier):
    """What of the unit's confinement the kernel itself tells of the process."""
    pid = machine.property(tier, "MainPID")
    status = dict(
        line.split(":\t", 1) for line in machine.run("cat", f"/proc/{pid}/status").splitlines()
    )
    for name, value in {"CapEff": "0" * 16, "CapBnd": "0" * 16, "NoNewPrivs": "1"}.items():
        want(status[name] == value, f"{tier}: wanted {name} {value}, found {status[name]}")
    want(status["Seccomp"] == "2", f"{tier}: its system calls are filtered")
    user = machine.run("id", "-u", "_offramp").strip()
    want(status["Uid"].split() == [user] * 4, f"{tier} runs as _offramp")
    mounts = machine.run("cat", f"/proc/{pid}/mounts").splitlines()
    root = [line.split()[3].split(",") for line in mounts if line.split()[1] == "/"]
    want(root and "ro" in root[-1], f"{tier} finds / read-only")


def survive_kill(machine):
    """systemd starts a node again that was killed, and work goes on."""
    before = machine.property("edge", "MainPID")
    machine.run("kill", "-9", before)

    def back():
        return machine.active("edge") and machine.property("edge", "MainPID") not in ("0", before)

    wait_until(back, RESTART_SECONDS, "systemd starts the killed edge again")
    want(machine.property("edge", "NRestarts") == "1", "it was started again once")


def reload_keys(machine):
    """A device is let in by a reload, and no node is started anew for it."""
    folder = "/tmp/second"
    machine.as_user("cp", "-r", f"{KEYS}/device", folder)
    public = machine.as_user("offramp", "keygen", "--force", f"{folder}/self.key").strip()
    refused = machine.call(*BECOME, *cascade(folder)).returncode
    want(refused == UNAVAILABLE, f"wanted exit code {UNAVAILABLE} without a line, found {refused}")
    before = machine.property("edge", "MainPID")
    command = f"echo 'device {public} second' >>{KEYS}/edge/allow"
    machine.as_user("sh", "-c", command)
    machine.systemctl("reload", "edge")
    answers = machine.classify(folder)
    want(machine.property("edge", "MainPID") == before, "a reload starts nothing anew")
    return answers


def drain(machine):
    """Stopped under load, an edge loses nothing that it took."""
    command = [*BECOME, "offramp", "load", "--json", "--rate", "200", "--duration", "6s"]
    command += ["--next", ADDRESSES["edge"], "--keys", f"{KEYS}/device"]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(machine.inside(command), env=CLEAN, **streams) as load:
        enough = answers(machine, "edge") + 400
        wait_until(lambda: answers(machine, "edge") > enough, PATIENCE, "the edge has work")
        machine.systemctl("stop", "edge")
        report = json.loads(load.communicate()[0])
    result = machine.property("edge", "Result"), machine.property("edge", "ExecMainStatus")
    want(result == ("success", "0"), f"a stopped edge ends well, found {result}")
    row = report["rows"][0]
    want(row["unsent"], f"the edge was stopped before the load ended: {row}")
    found = {name: row[name] for name in ("lost", "duplicated", "wrong")}
    want(not any(found.values()), f"nothing is lost, found {found}")


def answers(machine, tier):
    [node] = json.loads(machine.run("offramp", "top", "--once", "--json", METRICS[tier]))
    return node["answers"]


def refuse(machine):
    """What no restart mends is not started again."""
    configuration = machine.debian.path("/etc/offramp/edge.toml")
    good = configuration.read_text()
    configuration.write_text(good + "nonsense = 1\n")
    want(machine.call("systemctl", "start", UNITS["edge"]).returncode != 0, "start says that it failed")
    found = {name: machine.property("edge", name) for name in ("ActiveState", "NRestarts")}
    want(found == {"ActiveState": "failed", "NRestarts": "0"}, f"not started again, found {found}")
    configuration.write_text(good)
    machine.run("systemctl", "reset-failed", UNITS["edge"])
    machine.systemctl("start", "edge")


def upgrade(machine, deb):
    before = {tier: machine.property(tier, "MainPID") for tier in UNITS}
    machine.run("dpkg", "--install", deb)
    for tier, pid in before.items():
        want(machine.active(tier), f"{tier} is active after an upgrade")
        want(machine.property(tier, "MainPID") != pid, f"an upgrade starts {tier} anew")


def leave(machine):
    machine.run("apt-get", "-qq", "remove", "offramp")
    for tier in UNITS:
        want(not machine.active(tier), f"removal stops {tier}")
    machine.run("dpkg", "--purge", "offramp")
    traces = machine.debian.traces()
    want(not traces, f"purging leaves nothing, found {sorted(traces)}")
    want(machine.said("systemctl", "is-system-running") == "running", "systemd has no complaint")


def main(folder):
    deb = make_packages(folder / "packages")["offramp"]
    with Debian(folder / "debian", "systemd", "systemd-sysv", "dbus", "procps") as debian:
        inside = f"/debs/{deb.name}"
        debian.path("/debs").mkdir()
        shutil.copy(deb, debian.path(inside))
        debian.apt("update")
        debian.apt("install", "--download-only", inside)
    step("a bare Debian 12 with systemd, and what offramp depends on in apt's cache")
    with own_cgroup():
        use(debian, inside)


def use(debian, deb):
    with Machine(debian) as machine:
        step("systemd runs")
        install(machine, deb)
        answers = start(machine)
        step("installed; enabled nodes are ready when systemctl comes back, and answer")
        for tier in UNITS:
            confined(machine, tier)
        step("both are confined: no capabilities, filtered system calls, read-only root")
        survive_kill(machine)
        want(machine.classify() == answers, "answers are the same after a restart")
        step("a killed edge is started again")
        want(reload_keys(machine) == answers, "a second device gets the same answers")
        step("a device more is let in by systemctl reload")
        drain(machine)
        step("stopped under load, the edge loses nothing that it took")
        refuse(machine)
        step("a wrong configuration is not tried again")
    with Machine(debian) as machine:
        for tier in UNITS:
            wait_until(lambda tier=tier: machine.active(tier), PATIENCE, f"{tier} is up after boot")
        want(machine.classify() == answers, "answers are the same after a boot")
        step("booted again: enabled nodes are back")
        upgrade(machine, deb)
        want(machine.classify() == answers, "answers are the same after an upgrade")
        leave(machine)
        step("an upgrade starts nodes anew, removal stops them, purging leaves nothing")


if __name__ == "__main__":
    tools = ["cpack", "debootstrap", "dpkg-shlibdeps", "nsenter", "systemd-nspawn", "unshare"]
    no_cgroups = "cgroup2" not in pathlib.Path("/proc/filesystems").read_text()
    script(main, tools, "NO SYSTEMD WAS STARTED", ["cgroup2"] * no_cgroups)
