#!/usr/bin/env python3
"""The proxy of the fault tests does what it is told, and nothing else."""

import contextlib
import os
import pathlib
import socket
import subprocess
import tempfile
import threading
import time
import unittest

from scene import CHAOS_PROXY, Proxy, require

PATIENCE = 20


class Echo:
    """A server that sends back what it gets, and remembers its connections."""

    def __init__(self, port=0):
        self.listener = socket.create_server(("127.0.0.1", port))
        self.address = "%s:%d" % self.listener.getsockname()
        self.connections = []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                one, _ = self.listener.accept()
                self.connections.append(one)
                threading.Thread(target=self.serve, args=(one,), daemon=True).start()

    @staticmethod
    def serve(one):
        with contextlib.suppress(OSError):
            while block := one.recv(65536):
                one.sendall(block)
            one.shutdown(socket.SHUT_WR)

    def close(self):
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)  # close() alone leaves accept() waiting
        self.listener.close()
        for one in self.connections:
            one.close()


class ChaosProxy(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.echo = Echo()
        self.addCleanup(self.echo.close)
        self.proxy = self.start()

    def start(self, seed=1, more=()):
        proxy = Proxy(pathlib.Path(self.folder.name), self.echo.address, seed=seed, more=more)
        self.addCleanup(proxy.end)
        return proxy

    def do(self, line):
        self.assertEqual(self.proxy.tell(line), "ok")

    def client(self):
        host, port = self.proxy.address.split(":")
        one = socket.create_connection((host, int(port)))
        one.settimeout(PATIENCE)
        self.addCleanup(one.close)
        return one

    def echoed(self, one, data, block_bytes=None):
        """What comes back, as long as `data`; fewer bytes at the end of the stream. Sent at once, or
        in blocks."""
        size = block_bytes or len(data)

        def send():
            for begin in range(0, len(data), size):
                one.sendall(data[begin:begin + size])

        sender = threading.Thread(target=send)
        sender.start()
        back = bytearray()
        while len(back) < len(data) and (block := one.recv(65536)):
            back += block
        sender.join()
        return bytes(back)

    def silent(self, one, seconds=0.3):
        one.settimeout(seconds)
        try:
            one.recv(1)
            return False
        except TimeoutError:
            return True
        finally:
            one.settimeout(PATIENCE)

    def test_faithful_unless_told_otherwise(self):
        data = os.urandom(3_000_000)
        one, other = self.client(), self.client()
        self.assertEqual(self.echoed(one, data), data)
        self.assertEqual(self.echoed(other, b"x"), b"x")
        one.shutdown(socket.SHUT_WR)
        self.assertEqual(one.recv(1), b"")  # half a connection ends, and then the other half
        self.assertEqual(self.echoed(other, b"y"), b"y")
        self.assertRegex(self.proxy.tell("statistics"), r'"accepted": 2, .*"bytes_up": 3000002')

    def test_begins_with_what_set_says(self):
        self.proxy = self.start(more=["--set", "delay 100 up; delay 50 down"])
        one = self.client()
        begin = time.monotonic()
        self.assertEqual(self.echoed(one, b"x"), b"x")
        self.assertGreater(time.monotonic() - begin, 0.149)
        done = subprocess.run([CHAOS_PROXY, "--listen", "127.0.0.1:0", "--to", self.echo.address,
                               "--set", "delay 1; dela 2"], capture_output=True, text=True)
        self.assertEqual(done.returncode, 64)
        self.assertIn("dela 2", done.stderr)

    def test_delay(self):
        one = self.client()
        self.echoed(one, b"x")
        self.do("delay 150 up")
        begin = time.monotonic()
        self.assertEqual(self.echoed(one, b"x"), b"x")
        self.assertGreater(time.monotonic() - begin, 0.149)
        self.do("delay 100 50")
        begin = time.monotonic()
        self.assertEqual(self.echoed(one, b"x" * 1000), b"x" * 1000)
        self.assertGreater(time.monotonic() - begin, 0.199)

    def test_rate_is_shared_by_all_connections(self):
        self.do("rate 200000 up")
        clients = [self.client(), self.client()]
        data = os.urandom(50_000)
        begin = time.monotonic()
        threads = [threading.Thread(target=self.echoed, args=(one, data)) for one in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # 100,000 bytes, less what 20 ms let through at once.
        self.assertGreater(time.monotonic() - begin, 0.45)

    def test_hold_loses_nothing(self):
        one = self.client()
        self.echoed(one, b"x")
        self.do("hold on up")
        one.sendall(b"held")
        self.assertTrue(self.silent(one))
        self.do("heal")
        self.assertEqual(one.recv(4), b"held")

    def test_blackhole_loses_and_leaves_no_stream_with_a_hole(self):
        for direction in ("up", "down", "both"):
            with self.subTest(direction=direction):
                one, idle = self.client(), self.client()
                self.echoed(one, b"x")
                self.echoed(idle, b"x")
                self.do(f"blackhole on {direction}")
                one.sendall(b"lost")
                self.assertTrue(self.silent(one))
                during = self.client()  # accepted, and nothing comes of it
                during.sendall(b"lost")
                self.assertTrue(self.silent(during))
                self.do("heal")
                for cut in (one, during):
                    with self.assertRaises(ConnectionResetError):
                        cut.recv(1)
                self.assertEqual(self.echoed(idle, b"y"), b"y")
                self.assertEqual(self.echoed(self.client(), b"z"), b"z")

    def test_corrupt_changes_about_as_many_bytes_as_told_and_the_same_for_a_seed(self):
        data = bytes(400_000)
        changed = []
        for seed, block_bytes in ((7, None), (7, 777), (8, None)):
            self.proxy = self.start(seed)
            self.do("corrupt 0.001 up")
            if block_bytes:
                self.do("delay 0 1 up")
            back = self.echoed(self.client(), data, block_bytes)
            self.assertEqual(len(back), len(data))
            changed.append([(i, byte) for i, byte in enumerate(back) if byte])
        self.assertEqual(changed[0], changed[1])
        self.assertNotEqual(changed[0], changed[2])
        for one in changed:
            self.assertTrue(200 < len(one) < 800, len(one))

    def test_close_and_reset(self):
        one = self.client()
        self.echoed(one, b"x")
        self.do("close")
        self.assertEqual(one.recv(1), b"")
        one = self.client()
        self.echoed(one, b"x")
        self.do("reset")
        with self.assertRaises(ConnectionResetError):
            one.recv(1)

    def test_abandon_leaves_a_client_without_a_server(self):
        one = self.client()
        self.echoed(one, b"x")
        self.do("abandon")
        self.assertEqual(self.echo.connections[0].recv(1), b"")
        one.sendall(b"x")
        self.assertTrue(self.silent(one))
        self.assertEqual(self.echoed(self.client(), b"y"), b"y")
        self.do("heal")
        with self.assertRaises(ConnectionResetError):
            one.recv(1)

    def test_a_server_that_is_away_and_comes_back(self):
        self.echo.close()
        port = int(self.echo.address.split(":")[1])
        with self.assertRaises(ConnectionResetError):
            one = self.client()
            one.sendall(b"x")
            one.recv(1)
        self.assertEqual(self.proxy.statistics()["unreachable"], 1)
        self.echo = Echo(port)
        self.assertEqual(self.echoed(self.client(), b"y"), b"y")

    def test_a_held_peer_that_goes_costs_no_processor(self):
        one = self.client()
        self.echoed(one, b"x")
        self.do("hold on")
        self.echo.connections[0].close()
        one.close()
        before = self.proxy.cpu_seconds()
        time.sleep(0.5)
        self.assertLess(self.proxy.cpu_seconds() - before, 0.25)

    def test_wrong_commands_are_told_and_change_nothing(self):
        for line in ("", "delay", "delay x", "delay -1", "corrupt 2", "rate 1 2", "hold maybe",
                     "hold on sideways", "heal now", "nonsense"):
            answer = self.proxy.tell(line)
            self.assertTrue(answer.startswith("error: wanted ") and "found '" in answer, answer)
        self.assertEqual(self.echoed(self.client(), b"x"), b"x")

    def test_quit_and_the_end_of_stdin_end_it(self):
        self.assertEqual(self.proxy.tell("quit"), "ok")
        self.proxy.join(PATIENCE)
        other = self.start()
        other.process.stdin.close()
        other.join(PATIENCE)

    def test_what_makes_no_sense_is_refused_in_one_line(self):
        for options, code in (
            ([], 64),
            (["--listen", "127.0.0.1:0"], 64),
            (["--listen", "127.0.0.1:0", "--to", "127.0.0.1:1", "--speed", "9"], 64),
            (["--listen", "127.0.0.1:0", "--to", "127.0.0.1:1", "--seed", "x"], 64),
            (["--listen", "127.0.0.1:0", "--to", "nowhere"], 1),
            (["--listen", self.echo.address, "--to", "127.0.0.1:1"], 1),
            (["--listen", "127.0.0.1:0", "--to", "127.0.0.1:1", "--port-file", "/absent/x"], 1),
        ):
            done = subprocess.run([CHAOS_PROXY, *options], capture_output=True, text=True, input="")
            self.assertEqual(done.returncode, code, options)
            self.assertRegex(done.stderr, r"^chaos_proxy: .*wanted .*found.*\n$")


if __name__ == "__main__":
    require(CHAOS_PROXY)
    unittest.main()
