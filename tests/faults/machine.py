"""What rows of the failure table want of the machine beyond processes, given back when their Lab
ends."""

import contextlib
import os
import pathlib
import shutil
import subprocess

from lab import Skip
from scene import tail


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

    def inside(self, name, port=0):
        """Where a node of this space runs and listens, as options of Lab.node()."""
        return {"prefix": self.prefix(name), "listen": f"{self.address(name)}:{port}"}

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
