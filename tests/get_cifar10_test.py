#!/usr/bin/env python3
"""tools/get_cifar10.sh against a server on this machine, with a small archive for the real one."""

import hashlib
import http.server
import io
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import unittest

SCRIPT = pathlib.Path(__file__).resolve().parent.parent / "tools" / "get_cifar10.sh"
BATCH_BYTES = 3073 * 20

if not (shutil.which("curl") or shutil.which("wget")):
    print("get_cifar10_test: SKIPPED, neither curl nor wget is installed", file=sys.stderr)
    sys.exit(77)


def make_archive():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
            entry = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            entry.size = BATCH_BYTES
            archive.addfile(entry, io.BytesIO(os.urandom(BATCH_BYTES)))
    return buffer.getvalue()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `content`, and the rest of it where `ranges` is set."""

    def do_GET(self):
        server = self.server
        wanted = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
        begin = int(wanted[1]) if wanted and server.ranges else 0
        server.requests.append(begin)
        self.send_response(206 if begin else 200)
        body = server.content[begin:]
        if begin:
            end = len(server.content)
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{end}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            self.wfile.write(body)
        except OSError:
            pass  # the client has seen that it will not get what it asked for

    def log_message(self, *_):
        pass


class GetCifar10Test(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.base = pathlib.Path(folder.name)
        self.dir = self.base / "data folder"
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.content, self.server.ranges, self.server.requests = make_archive(), True, []
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.addCleanup(self.server.server_close)
        self.addCleanup(self.server.shutdown)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/cifar-10-binary.tar.gz"
        # Sum and sizes are the real set's and cannot be set from outside: a copy has the small one's.
        text = SCRIPT.read_text()
        digest = hashlib.md5(self.server.content).hexdigest()
        text, sums = re.subn(r"^md5=\w{32}$", f"md5={digest}", text, flags=re.M)
        text, sizes = re.subn(r"^batch_bytes=\d+$", f"batch_bytes={BATCH_BYTES}", text, flags=re.M)
        self.assertEqual((sums, sizes), (1, 1))
        self.small = self.base / "get_cifar10.sh"
        self.small.write_text(text)

    def run_script(self, *arguments, script=None, url=None):
        environment = {**os.environ, "OFFRAMP_CIFAR10_URL": url or self.url}
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            environment.pop(name, None)
        command = ["sh", str(script or self.small), *map(str, arguments)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)

    def assert_unpacked(self, result):
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        batches = self.dir / "cifar-10-batches-bin"
        self.assertEqual(result.stdout.strip(), str(batches))
        self.assertEqual({path.stat().st_size for path in batches.iterdir()}, {BATCH_BYTES})
        self.assertEqual(len(list(batches.iterdir())), 6)
        self.assertEqual([path.name for path in self.dir.iterdir()], [batches.name])

    def assert_stops(self, result, code, message):
        self.assertEqual(result.returncode, code, result.stderr)
        self.assertIn(message, result.stderr)
        self.assertEqual(result.stderr.count("\n"), 1, result.stderr)

    def test_fetches_and_then_has_nothing_to_do(self):
        self.assert_unpacked(self.run_script(self.dir))
        self.assert_unpacked(self.run_script(self.dir))
        self.assertEqual(self.server.requests, [0])

    def begin_with(self, content):
        self.dir.mkdir()
        (self.dir / "cifar-10-binary.tar.gz").write_bytes(content)

    def test_goes_on_where_a_download_stopped(self):
        self.begin_with(self.server.content[:5000])
        self.assert_unpacked(self.run_script(self.dir))
        self.assertEqual(self.server.requests, [5000])

    def test_begins_anew_where_the_server_cannot_resume(self):
        self.server.ranges = False
        self.begin_with(self.server.content[:5000])
        self.assert_unpacked(self.run_script(self.dir))

    def test_unpacks_a_file_that_was_put_there(self):
        self.begin_with(self.server.content)
        self.assert_unpacked(self.run_script(self.dir))
        self.assertEqual(self.server.requests, [])

    def test_replaces_a_half_unpacked_folder(self):
        batches = self.dir / "cifar-10-batches-bin"
        batches.mkdir(parents=True)
        (batches / "test_batch.bin").write_bytes(b"half")
        self.assert_unpacked(self.run_script(self.dir))

    def test_refuses_another_file(self):
        """With the script as it stands: the archive of this test has not the real set's sum."""
        result = self.run_script(self.dir, script=SCRIPT)
        self.assert_stops(result, 65, "wanted the md5 sum c32a1d4ab5d03f1284b67883e8d87530")
        self.assertEqual(list(self.dir.iterdir()), [])

    def test_says_that_there_is_no_network(self):
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))  # bound and not listening: refuses connections
            url = f"http://127.0.0.1:{unused.getsockname()[1]}/x"
            self.assert_stops(self.run_script(self.dir, url=url), 69, "cannot be fetched")

    def test_refuses_bad_arguments(self):
        self.assert_stops(self.run_script("a", "b"), 64, "wanted at most one argument")
        self.assert_stops(self.run_script("--colour"), 64, "wanted a folder")
        (self.base / "file").write_text("")
        self.assert_stops(self.run_script(self.base / "file"), 73, "cannot be created")
        self.assertIn("get_cifar10.sh [DIR]", self.run_script("--help").stdout)


if __name__ == "__main__":
    unittest.main()
