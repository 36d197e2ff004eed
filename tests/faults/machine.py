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


ETC = pathlib.Path("/etc/netns")  # where ip netns looks for files of a namespace


def _remove_etc_if_empty():
    with contextlib.suppress(OSError):
        ETC.rmdir()


class Namespaces:
    """Two or more network namespaces on one bridge in a namespace of its own: 10.77.0.1, .2, ..."""

    def __init__(self, lab, *names):
        need_root()
        need("ip", "iproute2")
        need("iptables", "iptables")
        self._lab = lab
        tag = f"ofr{os.getpid()}"
        self.names = {name: f"{tag}{name}" for name in names}
        self.hub = f"{tag}hub"
        lab.at_end(self._remove)
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

    def hosts(self, name):
        """The file that stands for /etc/hosts in programs that a prefix() starts from now on."""
        if not ETC.exists():
            ETC.mkdir(exist_ok=True)
            self._lab.at_end(_remove_etc_if_empty)  # others may use it by then
        folder = ETC / self.names[name]
        folder.mkdir()
        self._lab.at_end(folder.rmdir)
        path = folder / "hosts"
        path.touch()
        self._lab.at_end(path.unlink)
        return path

    def iptables(self, name, *rule):
        done = subprocess.run([*self.prefix(name), "iptables", "-w", *rule], capture_output=True,
                              text=True)
        if done.returncode != 0:
            raise Skip(f"wanted iptables {' '.join(rule)}, found: {tail(done.stderr)}")

    def _remove(self):
        for space in (*self.names.values(), self.hub):
            subprocess.run(["ip", "netns", "del", space], capture_output=True)


class MemoryLimit:
    """A group of processes with a limit of memory (cgroup version 1 or 2)."""

    def __init__(self, lab, limit, root=pathlib.Path("/sys/fs/cgroup")):
        one = root / "memory"
        alone = (one / "tasks").exists()  # version 1
        self.folder = (one if alone else root) / f"offramp-faults-{os.getpid()}"
        try:
            if not alone:
                self._hand_down(lab, root / "cgroup.subtree_control")
            self.folder.mkdir()
            lab.at_end(self.folder.rmdir)
            setting = "memory.limit_in_bytes" if alone else "memory.max"
            (self.folder / setting).write_text(str(limit))
        except OSError as error:
            raise Skip(f"wanted a cgroup with the controller memory, found: {error}")

    @staticmethod
    def _hand_down(lab, control):
        """Lets groups below the root have the controller, as long as the lab lasts."""
        if "memory" not in control.read_text().split():
            control.write_text("+memory")
            lab.at_end(lambda: control.write_text("-memory"))

    def prefix(self):
        return ("sh", "-c", f'echo $$ > {self.folder}/cgroup.procs && exec "$0" "$@"')
