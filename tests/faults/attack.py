"""Those who wish a node ill: strangers with sockets, a peer with a key, hostile pictures."""

import contextlib
import ctypes
import ctypes.util
import os
import pathlib
import resource
import socket
import struct
import subprocess
import sys
import zlib

from lab import Skip
from scene import SOURCE

SAMPLE = SOURCE / "tools" / "samples" / "cat-1.png"

# A greeting of ZMTP 3.0 that asks for no security: signature, version, mechanism, filler.
GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)


class Strangers:
    """Connections of somebody without a key."""

    def __init__(self, address, count):
        host, _, port = address.rpartition(":")
        self._to = (host, int(port))
        self._count = count
        self._sockets = []
        self.opened = 0

    def __enter__(self):
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self._count = min(self._count, hard - 200)
        self.come_again()
        return self

    def __exit__(self, *error):
        for one in self._sockets:
            one.close()

    def come_again(self):
        """Tops up to the number wanted; those that the node has closed make room."""
        self._sockets = [one for one in self._sockets if not self._closed(one)]
        while len(self._sockets) < self._count:
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(self._to)
            self._sockets.append(one)
            self.opened += 1

    @staticmethod
    def _closed(one):
        try:
            while one.recv(4096):
                pass
            return True
        except BlockingIOError:
            return False
        except OSError:
            return True

    def announce_huge_frames(self):
        """Each greets and announces a frame of 2^62 bytes, and sends some of it."""
        for one in self._sockets:
            one.setblocking(True)
            one.settimeout(2)
            with contextlib.suppress(OSError):
                one.sendall(GREETING + b"\x02" + struct.pack(">Q", 1 << 62) + bytes(100_000))


class Dealer:
    """A peer with the device's key that speaks ZeroMQ and not offramp's protocol."""

    DEALER, SNDMORE, DONTWAIT = 5, 2, 1
    LINGER, SNDTIMEO, SERVERKEY, PUBLICKEY, SECRETKEY = 17, 28, 50, 48, 49

    def __init__(self, lab, address):
        name = ctypes.util.find_library("zmq")
        if not name:
            raise Skip("wanted libzmq for an attacker, found none")
        try:
            import lz4.block  # noqa: F401 (these three: for the wire)
            import numpy  # noqa: F401
            import xxhash  # noqa: F401
        except ImportError as missing:
            raise Skip(f"wanted what tools/wire.py needs (setup.sh --tests), found: {missing}")
        import wire

        self._zmq = ctypes.CDLL(name)
        for function in ("zmq_ctx_new", "zmq_socket"):
            getattr(self._zmq, function).restype = ctypes.c_void_p
        self._context = ctypes.c_void_p(self._zmq.zmq_ctx_new())
        self._socket = ctypes.c_void_p(self._zmq.zmq_socket(self._context, self.DEALER))
        secret, server = wire.read_keys(lab.keys / "device")
        public = ctypes.create_string_buffer(len(secret) + 1)
        self._zmq.zmq_curve_public(public, secret)
        for option, key in ((self.SERVERKEY, server), (self.PUBLICKEY, public.value),
                            (self.SECRETKEY, secret)):
            self._zmq.zmq_setsockopt(self._socket, option, key, len(key))
        for option, value in ((self.LINGER, 0), (self.SNDTIMEO, 3000)):
            number = ctypes.c_int(value)
            self._zmq.zmq_setsockopt(self._socket, option, ctypes.byref(number), 4)
        self._zmq.zmq_connect(self._socket, f"tcp://{address}".encode())

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._zmq.zmq_close(self._socket)
        self._zmq.zmq_ctx_term(self._context)

    def send(self, count, size):
        """One message of so many parts; False when it is not taken. ZeroMQ sends none of them
        before it has the last one."""
        part = bytes(size)
        flags = [self.SNDMORE] * (count - 1) + [0]
        return all(self._zmq.zmq_send(self._socket, part, size, more) == size for more in flags)


def hog(group, limit, victim):
    """A process that wants all the memory of a group of processes, of which `victim` is to die."""
    (pathlib.Path("/proc") / str(victim) / "oom_score_adj").write_text("1000")
    code = (
        "import time\n"
        f"open('{group}/cgroup.procs', 'w').write('0')\n"
        f"held = b'x' * {limit}\n"
        "time.sleep(60)\n"
    )
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)


def peak_kib(command):
    """Exit code, largest memory and stderr of a program that runs to its end."""
    process = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, text=True)
    said = process.stderr.read()
    process.stderr.close()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage.ru_maxrss, said


def png(width, height, depth, data):
    def chunk(kind, body):
        return (struct.pack(">I", len(body)) + kind + body +
                struct.pack(">I", zlib.crc32(kind + body)))

    head = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) +
            chunk(b"IEND", b""))


def hostile_pictures(folder):
    """Files that claim, inflate to, or are made of what must not be believed."""
    jpeg = (SOURCE / "tests" / "fixtures" / "progressive.jpg").read_bytes()
    pictures = {
        "claims-16384.png": png(16384, 16384, 8, zlib.compress(bytes(100))),
        "claims-most.png": png((1 << 31) - 1, (1 << 31) - 1, 8, zlib.compress(bytes(100))),
        "inflates.png": png(32, 32, 8, zlib.compress(bytes(200 << 20), 9)),
        "deep.png": png(64, 64, 16, zlib.compress(bytes(64 * (64 * 6 + 1)))),
        "sixteen-bit.pnm": b"P6 64 64 65535\n" + bytes(64 * 64 * 6),
        "animation.gif": b"GIF89a" + bytes(200),
        "radiance.hdr": b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 32768 +X 32768\n" + bytes(64),
        "photoshop.psd": b"8BPS" + bytes(200),
        "huge.bmp": b"BM" + struct.pack("<IIIIiiHHIIIIII", 1 << 30, 0, 54, 40, 1 << 30, 1 << 30, 1,
                                        24, 0, 0, 0, 0, 0, 0),
        "cut.jpg": jpeg[: len(jpeg) // 2],
        "noise.jpg": jpeg[:20] + bytes(range(256)) * 8,
        "empty.png": b"",
    }
    paths = []
    for name, content in pictures.items():
        path = folder / name
        path.write_bytes(content)
        paths.append(path)
    return paths
