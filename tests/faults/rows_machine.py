"""Rows of the failure table: the machine's clock, memory and disk, and what reads its metrics."""

import contextlib
import pathlib
import random
import signal
import socket
import subprocess
import time

import attack
from lab import Lab, Skip, cpp_tests, now_us
from machine import MemoryLimit, need_root
from scene import BINARY, MODEL, tail, want
from table import row


@row(15, "clock skew")
def clock_skew(quick):
    libraries = list(pathlib.Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not libraries:
        raise Skip("wanted libfaketime (Debian: faketime), found none")
    with Lab() as lab:
        shift = lab.folder / "shift"
        shift.write_text("+0\n")

        def skewed(by):
            return {"LD_PRELOAD": str(libraries[0]), "DONT_FAKE_MONOTONIC": "1",
                    **({"FAKETIME": by} if by else {"FAKETIME_TIMESTAMP_FILE": str(shift),
                                                    "FAKETIME_NO_CACHE": "1"})}

        cloud = lab.node("cloud", environment=skewed("-1h"))
        edge = lab.node("edge", cloud, environment=skewed("+1h"))
        device = lab.device(edge, 6, deadline_ms=1000, environment=skewed(None))
        device.wait_connected()
        for by in ("+3600", "-3600", "+86400"):
            time.sleep(1)
            shift.write_text(by + "\n")
        verdict = lab.judge(device)
        want(set(verdict.outcomes) == {"ok"}, f"clocks were noticed: {verdict.text()}")
        return f"cloud -1 h, edge +1 h, device jumps three times; {verdict.text()}"


@row(16, "memory limit hit")
def memory_limit(quick):
    with Lab() as lab:
        limit = 64 << 20
        group = MemoryLimit(lab, limit)
        cloud, edge = lab.tiers(prefix=group.prefix())
        device = lab.device(edge, 8)
        device.wait_connected()
        time.sleep(1)
        edge.injected = True
        hog = attack.hog(group.folder, limit, edge.pid)
        lab.at_end(hog.wait)
        lab.at_end(hog.kill)
        died = time.monotonic()
        with contextlib.suppress(subprocess.TimeoutExpired):
            edge.process.wait(10)
        hog.kill()
        hog.wait()
        want(edge.process.returncode == -signal.SIGKILL,
             f"wanted the edge killed for memory, found {edge.process.returncode}")
        died = time.monotonic() - died
        time.sleep(0.5)
        edge = lab.again(edge)
        verdict = lab.judge(device, healed_us=[now_us()])
        want(cloud.alive(), "the cloud died with it")
        return f"killed after {died:.1f} s at 64 MiB, the cloud lives; {verdict.text()}"


@row(19, "corrupt weights")
def corrupt_weights(quick):
    tests = cpp_tests("every truncation and every bit flip of a model is refused",
                      "every truncation is refused", "a wrong hash is called so*")
    rng = random.Random(19)
    whole = MODEL.read_bytes()
    count = 20 if quick else 60
    with Lab() as lab:
        for number in range(count):
            bent = bytearray(whole)
            if number % 2:
                bent[rng.randrange(len(bent))] ^= 1 << rng.randrange(8)
            else:
                del bent[rng.randrange(len(bent)):]
            path = lab.folder / "bent.safetensors"
            path.write_bytes(bent)
            done = subprocess.run([BINARY, "node", "--tier", "cloud", "--listen", "127.0.0.1:0",
                                   "--keys", lab.keys / "cloud", "--model", path],
                                  capture_output=True, text=True, timeout=20)
            want(done.returncode == 78 and len(done.stderr.splitlines()) == 1,
                 f"wanted 78 and one line, found {done.returncode}: {tail(done.stderr)}")
    return f"{count} damaged copies of the default model: 78 and one line each; {tests}"


@row(21, "disk full, hung metrics reader")
def disk_full(quick):
    need_root()
    with Lab() as lab:
        small = lab.folder / "small"
        small.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", small],
                              capture_output=True, text=True)
        if done.returncode != 0:
            raise Skip(f"wanted a tmpfs, found: {tail(done.stderr)}")
        lab.at_end(lambda: subprocess.run(["umount", "-l", small]))
        cloud = lab.node("cloud")
        log = small / "edge.log"
        log.touch()
        full = small / "rest"
        with contextlib.suppress(OSError), open(full, "wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        want(log.stat().st_size == 0, "the log was not empty")
        edge = lab.node("edge", cloud,
                        prefix=("sh", "-c", f'exec "$0" "$@" 2>{log}'))
        device = lab.device(edge, 5, deadline_ms=1000)
        device.wait_connected()
        for _ in range(20):
            edge.signal(signal.SIGHUP)  # a line of the log each
            time.sleep(0.1)
        verdict = lab.judge(device)
        want(set(verdict.outcomes) == {"ok"}, f"inference was touched: {verdict.text()}")
    tests = cpp_tests("a port file on a full disk does not keep a node from serving")
    return f"log on a full disk: {verdict.text()}; {hung_readers(quick)}; {tests}"


def hung_readers(quick):
    """Clients of an edge's metrics that ask and never read, or never finish to ask."""
    with Lab() as lab:
        cloud = lab.node("cloud")
        where = lab.folder / "metrics"
        edge = lab.node("edge", cloud, more=("--metrics", "127.0.0.1:0",
                                             "--metrics-port-file", where))
        host, port = where.read_text().strip().rsplit(":", 1)
        device = lab.device(edge, 4 if quick else 20, deadline_ms=1000)
        device.wait_connected()
        asking = [socket.create_connection((host, int(port)), 2) for _ in range(50)]
        for number, client in enumerate(asking):
            client.sendall(b"GET /metrics HTTP/1.1\r\n" + (b"\r\n" if number % 2 else b"X: "))
        verdict = lab.judge(device)
        for client in asking:
            client.close()
        want(set(verdict.outcomes) == {"ok"}, f"inference was touched: {verdict.text()}")
        return f"50 hung readers: {verdict.text()}"
