#!/usr/bin/env python3
"""A device that speaks net/WIRE.md by itself: hands one tensor on at cut 1 and says what comes back.

    wire_client.py ENDPOINT KEYS [--tensor FILE.npy] [--model FILE] [--dtype f32] [--lz4]

ENDPOINT is tcp://HOST:PORT or, without keys (KEYS is then -), ipc://PATH. KEYS is a folder with
self.key (offramp keygen) and next.pub. Without --tensor, float32[H, W, C], it takes the golden one
of the default model. Needs Debian's python3-zmq, python3-numpy, python3-xxhash, python3-lz4. Exit
codes: 0 an answer, 69 none or an ERROR.
"""

import argparse
import json
import pathlib
import secrets
import sys
import time

import numpy
import zmq

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import modelfile  # noqa: E402
import wire  # noqa: E402

CUT = 1
GOLDEN_LAYER = "layer:relu_5"  # what crosses at cut 1 of the default model
MARGIN = 0.006  # seconds for timers


class Link:
    """One connection to a node, and what is away on it."""

    def __init__(self, endpoint, keys):
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.linger = 500
        self.socket.immediate = True
        if keys != "-":
            secret, server = wire.read_keys(keys)
            self.socket.curve_secretkey = secret
            self.socket.curve_publickey = zmq.curve_public(secret)
            self.socket.curve_serverkey = server
        self.socket.connect(endpoint)

    def send(self, message, until, **fields):
        """Waits for the connection; a node that refuses the key looks like one that is absent."""
        if not self.socket.poll(max(0, until - time.monotonic()) * 1000, zmq.POLLOUT):
            raise TimeoutError("wanted a node that lets us in, found none in time")
        self.socket.send_multipart(wire.encode({"message": message, **fields}))

    def receive(self, wanted, until):
        """The next message of a kind in `wanted`; what is malformed or of another kind is dropped."""
        while self.socket.poll(max(0, until - time.monotonic()) * 1000):
            try:
                message = wire.decode(self.socket.recv_multipart())
            except wire.Refused as reason:
                print(f"wire_client: dropped a message: {reason}", file=sys.stderr)
                continue
            if message["message"] in wanted:
                return message
        raise TimeoutError(f"wanted {' or '.join(wanted)}, found nothing in time")

    def close(self):
        if self.socket.poll(0, zmq.POLLOUT):
            self.send("BYE", time.monotonic())
        self.socket.close()
        self.context.term()


def identity(path):
    """What HELLO and INFER say of the model: the first 16 bytes of its id."""
    _, metadata = modelfile.read_safetensors(path)
    return metadata["offramp.hash"][:32]


def golden_tensor(path):
    tensors, _ = modelfile.read_safetensors(path.with_suffix(".golden.safetensors"))
    return tensors[GOLDEN_LAYER][0].transpose(1, 2, 0)


def hand_on(link, model, tensor, dtype, lz4, seconds):
    session, until = secrets.randbits(64), time.monotonic() + seconds
    link.send("HELLO", until, session=session, model=model, cut=CUT, shape=tensor.shape)
    welcome = link.receive(("WELCOME", "ERROR"), until)
    if welcome["message"] == "ERROR":
        return welcome
    asked = time.monotonic()
    link.send("PING", until, sequence=1)
    pong = link.receive(("PONG",), until)
    round_trip = time.monotonic() - asked - pong["held_us"] / 1e6
    fields = wire.encode_tensor(tensor, dtype, lz4)
    budget = max(0, until - time.monotonic() - round_trip - MARGIN)
    link.send(
        "INFER",
        until,
        session=session,
        counter=1,
        model=model,
        cut=CUT,
        budget_us=min(int(budget * 1e6), 2**32 - 1),
        **fields,
    )
    while True:
        answer = link.receive(("RESULT", "ERROR"), until)
        if (answer["session"], answer["counter"]) == (session, 1):
            return answer


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("endpoint", metavar="ENDPOINT")
    parser.add_argument("keys", metavar="KEYS")
    parser.add_argument("--tensor", metavar="FILE.npy")
    parser.add_argument("--model", type=pathlib.Path, default=ROOT / "weights" / "resnet20b.safetensors")
    parser.add_argument("--dtype", choices=("f32", "f16", "u8", "u8c"), default="f32")
    parser.add_argument("--lz4", action="store_true")
    parser.add_argument("--seconds", type=float, default=5.0, help="in which there is to be an answer")
    o = parser.parse_args()
    tensor = numpy.load(o.tensor) if o.tensor else golden_tensor(o.model)
    link = Link(o.endpoint, o.keys)
    try:
        answer = hand_on(link, identity(o.model), tensor, o.dtype, o.lz4, o.seconds)
    except TimeoutError as error:
        print(f"wire_client: {o.endpoint}: {error}", file=sys.stderr)
        return 69
    finally:
        link.close()
    print(json.dumps({k: v for k, v in answer.items() if k != "frame"}))
    return 0 if answer["message"] == "RESULT" else 69


if __name__ == "__main__":
    sys.exit(main())
