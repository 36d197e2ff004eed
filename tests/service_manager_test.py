#!/usr/bin/env python3
"""What a node tells systemd, as sd_notify(3) has it: ready once it listens and not before,
reloading for SIGHUP, stopping when it is stopped. A manager that does not listen changes
nothing."""

import os
import pathlib
import signal
import socket
import subprocess
import tempfile
import unittest

from scene import BINARY, MODEL, make_keys, require

PATIENCE = 60


class ServiceManager(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        make_keys(self.folder)

    def node(self, notify, *more):
        command = [BINARY, "node", "--tier", "cloud", "--listen", "127.0.0.1:0", "--model", MODEL]
        command += ["--keys", self.folder / "keys" / "cloud", *more]
        process = subprocess.Popen(
            command, env=os.environ | {"NOTIFY_SOCKET": notify}, stderr=subprocess.PIPE, text=True
        )
        self.addCleanup(process.stderr.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def listen(self, address):
        manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(manager.close)
        manager.bind(address)
        manager.settimeout(PATIENCE)
        return manager

    def follow(self, name, address):
        manager = self.listen(address)
        address_file = self.folder / "address"
        node = self.node(name, "--port-file", address_file)
        ready = manager.recv(4096).decode().split("\n")
        address = address_file.read_text().strip()
        self.assertEqual(ready, ["READY=1", f"STATUS=cloud on {address}"])
        with socket.create_connection(address.removeprefix("tcp://").rsplit(":", 1), PATIENCE):
            pass
        node.send_signal(signal.SIGHUP)
        self.assertEqual([manager.recv(4096) for _ in range(2)], [b"RELOADING=1", b"READY=1"])
        node.send_signal(signal.SIGTERM)
        self.assertEqual(manager.recv(4096), b"STOPPING=1")
        self.assertEqual(node.wait(PATIENCE), 0)
        manager.settimeout(0)
        with self.assertRaises(BlockingIOError):
            manager.recv(4096)

    def test_by_path(self):
        self.follow(str(self.folder / "notify"), str(self.folder / "notify"))

    def test_by_abstract_name(self):
        name = f"offramp-{os.getpid()}"
        self.follow("@" + name, "\0" + name)

    def test_a_node_that_cannot_start_is_never_ready(self):
        manager = self.listen(str(self.folder / "notify"))
        (self.folder / "keys" / "cloud" / "allow").write_text("nonsense\n")
        self.assertEqual(self.node(str(self.folder / "notify")).wait(PATIENCE), 78)
        manager.settimeout(0)
        with self.assertRaises(BlockingIOError):
            manager.recv(4096)

    def test_nobody_listens(self):
        for notify in (str(self.folder / "absent"), "@" + 200 * "x", "vsock:2:1", ""):
            with self.subTest(notify):
                node = self.node(notify)
                self.assertIn("listening on", node.stderr.readline())
                node.send_signal(signal.SIGTERM)
                self.assertEqual(node.wait(PATIENCE), 0)


if __name__ == "__main__":
    require(BINARY)
    unittest.main()
