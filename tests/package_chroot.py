#!/usr/bin/env python3
"""Debian's packages, as others get them: installed with apt in a bare Debian 12 (debootstrap's
minbase in a folder of its own), used there, and purged. tools/package_tests.sh builds and starts
it.

The nodes run by the unit's own command, as its user, with the configuration that was installed, in
a network namespace that has nothing but loopback; systemd itself is package_systemd.py's."""

import contextlib
import ctypes
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from package_test import PACKAGES, UNIT, make_packages
from scene import BINARY, MODEL, SOURCE, Failed, tail, want, wait_until

CLONE_NEWNET = 0x40000000
MIRROR = os.environ.get("OFFRAMP_DEBIAN", "http://deb.debian.org/debian")
INSTALLED_MODEL = "/usr/share/offramp/resnet20b.safetensors"
SAMPLES = "/usr/share/offramp/samples"
EXAMPLES = "/usr/share/doc/libofframp-client-dev/examples"
ADDRESSES = {"edge": "127.0.0.1:5555", "cloud": "127.0.0.1:5556"}
METRICS = {"edge": "9101", "cloud": "9102"}
PATIENCE = 60
BEGIN = time.monotonic()
CLEAN = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
CLEAN |= {"DEBIAN_FRONTEND": "noninteractive"}
CLEAN |= {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}


def step(text):
    print(f"{time.monotonic() - BEGIN:5.0f} s  {text}", flush=True)


class Debian:
    """A bare Debian in `root`, with the packages of `more` in it."""

    def __init__(self, root, *more):
        self.root = root
        command = ["debootstrap", "--variant=minbase", "bookworm", root, MIRROR]
        if more:
            command.insert(2, f"--include={','.join(more)}")
        done = subprocess.run(command, capture_output=True, text=True)
        want(done.returncode == 0, f"debootstrap: {tail(done.stdout + done.stderr)}")

    def __enter__(self):
        subprocess.run(["mount", "-t", "proc", "proc", self.path("/proc")], check=True)
        return self

    def __exit__(self, *_):
        subprocess.run(["umount", "--lazy", self.path("/proc")], check=True)

    def inside(self, command):
        return ["chroot", self.root, *command]

    def run(self, *command):
        streams = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
        done = subprocess.run(self.inside(command), env=CLEAN, **streams)
        said = tail(done.stdout + done.stderr, 8)
        want(done.returncode == 0, f"{shlex.join(command)}: exit code {done.returncode}: {said}")
        return done.stdout

    def apt(self, *words):
        quiet = ["-qq", "-o", "Dpkg::Use-Pty=0", "--no-install-recommends"]
        return self.run("apt-get", *quiet, *words)

    def path(self, absolute):
        return self.root / absolute.lstrip("/")

    def traces(self):
        """Whatever is named after the packages, but in apt's and dpkg's own logs."""
        names = self.run("find", "/", "-xdev", "-name", "*offramp*").split()
        found = {name for name in names if not name.startswith("/debs/")}
        for name in ("passwd", "group", "shadow"):
            text = self.path(f"/etc/{name}").read_text()
            found |= {f"/etc/{name}: {line}" for line in text.splitlines() if "offramp" in line}
        return found


class Services:
    """What the unit starts, started as it would, without systemd."""

    def __init__(self, debian):
        self.debian = debian
        text = debian.path(UNIT).read_text()
        self.settings = dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))

    def as_user(self, *words):
        user, group = self.settings["User"], self.settings["Group"]
        other = ["setpriv", "--reuid", user, "--regid", group, "--clear-groups", "--no-new-privs"]
        return [*other, *words]

    def command(self, instance):
        return self.as_user(*shlex.split(self.settings["ExecStart"].replace("%i", instance)))

    @contextlib.contextmanager
    def running(self, instance):
        with tempfile.TemporaryFile("w+") as log:
            process = subprocess.Popen(
                self.debian.inside(self.command(instance)), env=CLEAN, stdout=log, stderr=log
            )
            try:
                health = self.debian.inside(["offramp", "health", METRICS[instance]])

                def healthy():
                    log.seek(0)
                    want(process.poll() is None, f"{instance} ended early: {tail(log.read())}")
                    return subprocess.run(health, capture_output=True, env=CLEAN).returncode == 0

                wait_until(healthy, PATIENCE, f"{instance} is healthy")
                yield process
                process.terminate()
                code = process.wait(PATIENCE)
                want(code == 0, f"{instance}: exit code {code} on SIGTERM")
            finally:
                process.kill()
                process.wait()


def only_loopback():
    libc = ctypes.CDLL(None, use_errno=True)
    want(libc.unshare(CLONE_NEWNET) == 0, f"unshare: {os.strerror(ctypes.get_errno())}")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def labels(text, *columns):
    """Name of the picture and what it is, of lines of words."""
    rows = [line.split() for line in text.splitlines() if ".png" in line]
    return sorted((pathlib.Path(row[0]).name, *(row[each] for each in columns)) for row in rows)


def install(debian, debs):
    folder = debian.path("/debs")
    folder.mkdir()
    for deb in debs.values():
        shutil.copy(deb, folder)
    inside = {name: f"/debs/{deb.name}" for name, deb in debs.items()}
    debian.apt("update")
    debian.apt("install", inside["offramp"])
    installed = debian.run("dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\\n")
    want("offramp installed" in installed, "offramp is installed")
    want("-dev " not in installed, "the program needs no package for development")
    return inside


def classify(debian):
    command = ["classify", "--threads", "1"]
    there = debian.run("offramp", *command, SAMPLES)
    packed = [BINARY, *command, "--model", MODEL, SOURCE / "tools" / "samples"]
    here = subprocess.run(packed, capture_output=True, text=True).stdout
    count = len(list((SOURCE / "tools" / "samples").iterdir()))
    want(len(labels(there)) == count, f"all {count} samples are classified")
    want(labels(there, 1, 2) == labels(here, 1, 2), "answers are those of the packed program")


def make_keys(debian, services):
    owner = debian.path("/etc/offramp/keys").stat()
    want(owner.st_mode & 0o777 == 0o700, "the folder of keys is its user's alone")
    debian.run(*services.as_user("offramp", "keygen", "--tiers", "/etc/offramp/keys"))


def use_nodes(debian, services):
    for instance in ADDRESSES:
        check = ["offramp", "config", "check", f"/etc/offramp/{instance}.toml"]
        want(": ok" in debian.run(*services.as_user(*check)), f"{instance}.toml is accepted")
    with services.running("cloud"), services.running("edge") as edge:
        step("nodes run as the unit has it, with the configuration that was installed")
        device = ["--next", ADDRESSES["edge"], "--keys", "/etc/offramp/keys/device"]
        run = ["offramp", "run", SAMPLES, *device, "--thresholds", "0", "--policy", "strict"]
        debian.run(*services.as_user(*run))
        pictures = [f"{SAMPLES}/{path.name}" for path in sorted(debian.path(SAMPLES).iterdir())]
        words = [INSTALLED_MODEL, ADDRESSES["edge"], "/etc/offramp/keys/device", *pictures]
        programs = ("/tmp/classify_c", "/tmp/build/classify")
        answers = [debian.run(*services.as_user(program, *words)) for program in programs]
        want(len(labels(answers[0])) == len(pictures), "the program in C classifies all samples")
        want(labels(answers[0], 1, 2) == labels(answers[1], 1, 2), "C and C++ answer alike")
        want(" ok" in answers[0] and "degraded" not in answers[0], f"all is well: {answers[0]}")
        step("programs that find_package and pkg-config built classify through them")
        edge.send_signal(1)
        time.sleep(0.5)
        want(edge.poll() is None, "a node survives SIGHUP, which ExecReload sends")


def build_programs(debian, debs):
    ours = [debs["libofframp-client0"], debs["libofframp-client-dev"]]
    debian.apt("install", *ours, "cmake", "g++", "make", "pkgconf")
    flags = debian.run("pkg-config", "--cflags", "--libs", "offramp-client").split()
    debian.run("cc", "-std=c99", f"{EXAMPLES}/classify.c", *flags, "-o", "/tmp/classify_c")
    debian.run("cmake", "-S", EXAMPLES, "-B", "/tmp/build")
    debian.run("cmake", "--build", "/tmp/build")


def refuse(debian, services):
    """What no restart mends is among the codes that systemd does not restart after."""
    final = {int(code) for code in services.settings["RestartPreventExitStatus"].split()}
    configuration = debian.path("/etc/offramp/edge.toml")
    good = configuration.read_text()
    secret = debian.path("/etc/offramp/keys/edge/self.key")

    def refused(what):
        code = code_of(debian, services)
        want(code in final, f"{what}: wanted an exit code of {sorted(final)}, found {code}")

    configuration.write_text(good + "nonsense = 1\n")
    refused("an unknown option")
    configuration.write_text(good + 'model = "/absent"\n')
    refused("a missing model")
    configuration.write_text(good.replace("keys/edge", "keys/absent"))
    refused("missing keys")
    configuration.write_text(good + "# touched\n")
    secret.chmod(0o644)
    refused("a key that others may read")
    secret.chmod(0o600)


def code_of(debian, services):
    done = subprocess.run(
        debian.inside(services.command("edge")), env=CLEAN, capture_output=True, timeout=PATIENCE
    )
    return done.returncode


def speak_to_systemd(debian):
    """A systemctl that only writes down what the packages' scripts say to it."""
    debian.path("/run/systemd/system").mkdir(parents=True)
    program, told = debian.path("/usr/bin/systemctl"), debian.path("/tmp/told")
    want(not program.exists(), "a bare Debian has no systemd")
    program.write_text('#!/bin/sh\necho "$*" >>/tmp/told\n')
    program.chmod(0o755)

    def hear(*wanted):
        found = told.read_text().splitlines()
        want(found == list(wanted), f"scripts say {wanted} to systemd, found {found}")
        told.unlink()

    return hear


def leave(debian, deb):
    hear = speak_to_systemd(debian)
    debian.run("dpkg", "--install", deb)
    reload, nodes = "--system daemon-reload", "offramp-node@*.service"
    # Of the old package's removal, then of the new one's configuration.
    hear(reload, reload, f"try-restart {nodes}")
    debian.apt("remove", *PACKAGES)
    hear(f"stop {nodes}", reload)
    kept = debian.path("/etc/offramp/edge.toml").read_text()
    want("# touched" in kept, "removal keeps the configuration")
    want(debian.path("/etc/offramp/keys/edge/self.key").exists(), "removal keeps the keys")
    want(not debian.path("/usr/bin/offramp").exists(), "removal takes the program")
    # Not apt, which no longer knows one that has nothing left to purge.
    debian.run("dpkg", "--purge", *PACKAGES)
    states = debian.run("dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\\n")
    want("offramp" not in states, "dpkg knows none of them any more")
    want(not debian.traces(), f"purging leaves nothing, found {sorted(debian.traces())}")


def main(folder):
    debs = make_packages(folder / "packages")
    want(set(debs) == set(PACKAGES), f"cpack makes {PACKAGES}")
    step("packages made")
    with Debian(folder / "debian") as debian:
        step("a bare Debian 12")
        inside = install(debian, debs)
        step("offramp installed by apt with what it depends on")
        classify(debian)
        step("the installed samples are classified, with the packed program's answers")
        build_programs(debian, inside)
        step("programs built against the library: find_package and pkg-config")
        services = Services(debian)
        make_keys(debian, services)
        only_loopback()
        use_nodes(debian, services)
        refuse(debian, services)
        step("what no restart mends ends with a code after which systemd does not restart")
        leave(debian, inside["offramp"])
        step("an upgrade restarts nodes; removal keeps configuration and keys, purging none")


def child_of(process):
    """The number of its only child, "" without one."""
    return pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().strip()


def apart(command):
    """The exit code of `command`, run in mounts and processes of its own. unshare itself lets no
    SIGTERM through; a SIGINT from the keyboard reaches all."""
    unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    process = subprocess.Popen([*unshare, "--propagation", "private", *command])

    def pass_on(number, _frame):
        if child := child_of(process):
            os.kill(int(child), number)

    signal.signal(signal.SIGTERM, pass_on)
    signal.signal(signal.SIGINT, lambda *_: None)
    return process.wait()


def script(main, tools, without, lacking=()):
    """Runs main(folder) as root in mounts and processes of its own, which end with it whatever
    becomes of it; or says `without` what it had to be skipped. Ends the program."""
    name = pathlib.Path(sys.argv[0]).stem
    lacking = [*lacking, *(tool for tool in tools if shutil.which(tool) is None)]
    if os.geteuid() != 0:
        lacking.append("root")
    if lacking:
        print(f"SKIP: {without}: this machine lacks {', '.join(lacking)}")
        sys.exit(77)
    if sys.argv[1:] != ["--inside"]:
        sys.exit(apart([sys.executable, sys.argv[0], "--inside"]))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory(prefix="offramp-packages-") as folder:
        try:
            main(pathlib.Path(folder))
        except (Failed, subprocess.TimeoutExpired) as failed:
            sys.exit(f"{name}: FAIL: {failed}")
    print("PASS")
    sys.exit()


if __name__ == "__main__":
    script(main, ["cpack", "debootstrap", "dpkg-shlibdeps", "ip", "setpriv", "unshare"],
           "NO PACKAGE WAS INSTALLED")
