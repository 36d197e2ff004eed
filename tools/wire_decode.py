#!/usr/bin/env python3
"""Says what is in the messages of net/WIRE.md, or why they are refused.

    wire_decode.py [--json] [--capture] [--shape HxWxC] [--classes N] [--exits N] [FILE...]

Files hold hexadecimal digits; standard input is read when none is named. `= NAME` begins a message,
`/` its second frame, `#` a comment. With --capture they hold, for each message, a u32 with the
length of the header frame, that frame, a u32 with the length of the payload frame, and that.

--classes and --exits are those of the receiver's model, --shape is its tensor's at the cut; without
them every message is believed. Exit codes: 0 all messages are good, 64 option, 65 one is refused or
holds a bad tensor, or the file is not as it should be, 66 missing file.
"""

import argparse
import json
import pathlib
import re
import signal
import sys

import wire
from commandline import Parser, Stop


# ---- files ---------------------------------------------------------------------------------------


def read_file(path):
    try:
        return sys.stdin.buffer.read() if path == "-" else pathlib.Path(path).read_bytes()
    except OSError as error:
        found = {FileNotFoundError: "none", IsADirectoryError: "a folder"}
        what = found.get(type(error), error.strerror)
        raise Stop(66, f"{path}: wanted a file, found {what}") from None


def read_hex(text, origin):
    """[(name, frames)]"""
    messages = []
    for line in text.splitlines():
        line = line.split("#")[0].strip()
        if line.startswith("="):
            messages.append((line[1:].strip(), [b""]))
        elif line:
            if not messages:
                messages.append((origin, [b""]))
            frames = messages[-1][1]
            for part in (part.strip() for part in line.replace("/", " / ").split()):
                if part == "/":
                    frames.append(b"")
                    continue
                try:
                    frames[-1] += bytes.fromhex(part)
                except ValueError:
                    raise Stop(
                        65, f"{origin}: wanted hexadecimal digits, found '{part[:40]}'"
                    ) from None
    return messages


def read_capture(data, origin):
    messages, at = [], 0
    while at < len(data):
        frames = []
        for _ in range(2):
            size = int.from_bytes(data[at : at + 4], "little")
            if at + 4 + size > len(data):
                raise Stop(
                    65, f"{origin}: wanted a frame of {size} bytes at {at}, found the end"
                )
            frames.append(data[at + 4 : at + 4 + size])
            at += 4 + size
        messages.append((f"{origin}[{len(messages)}]", frames))
    return messages


def write_capture(messages):
    return b"".join(len(f).to_bytes(4, "little") + f for frames in messages for f in frames)


# ---- what is said --------------------------------------------------------------------------------


def described(frames, limits=wire.Limits(), shape=None):
    """decode() and decode_tensor() as JSON: {"refused": reason}, or the message with its payload in
    hex and, for INFER, "tensor" with numbers [H, W, C flat] or "bad_tensor" with the reason."""
    try:
        m = wire.decode(frames, limits)
    except wire.Refused as refused:
        return {"refused": str(refused)}
    if m["message"] == "INFER":
        try:
            tensor = {"tensor": wire.decode_tensor(m, shape).ravel().tolist()}
        except wire.BadTensor as bad:
            tensor = {"bad_tensor": str(bad)}
        m = m | {"payload": m["payload"].hex()} | tensor
    return m


def lines(value, indent=""):
    for name, field in value.items():
        if isinstance(field, dict):
            yield f"{indent}{name}"
            yield from lines(field, indent + "  ")
        elif isinstance(field, list) and field and isinstance(field[0], dict):
            for each in field:
                yield f"{indent}{name}: " + ", ".join(f"{k} {v}" for k, v in each.items())
        else:
            text = " ".join(map(str, field)) if isinstance(field, list) else str(field)
            yield f"{indent}{name}: {text if len(text) <= 200 else text[:200] + ' ...'}"


# ---- the command ---------------------------------------------------------------------------------


def shape_of(text):
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){2}", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"wanted HxWxC, found '{text}'")
    return [int(side) for side in text.split("x")]


def count_of(text):
    if not re.fullmatch(r"[1-9]\d*", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"wanted a whole number from 1, found '{text}'")
    return int(text)


def parse():
    parser = Parser(prog="wire_decode.py", description=__doc__.split("\n", 1)[0])
    parser.add_argument("files", nargs="*", metavar="FILE")
    parser.add_argument("--json", action="store_true", help="one JSON object a message")
    parser.add_argument("--capture", action="store_true", help="frames with their lengths, not hex")
    parser.add_argument("--shape", type=shape_of, metavar="HxWxC")
    parser.add_argument("--classes", type=count_of, default=wire.Limits().classes, metavar="N")
    parser.add_argument("--exits", type=count_of, default=wire.Limits().exits, metavar="N")
    return parser.parse_args()


def main():
    options = parse()
    limits = wire.Limits(options.classes, options.exits)
    good = True
    for path in options.files or ["-"]:
        data = read_file(path)
        if options.capture:
            messages = read_capture(data, path)
        else:
            messages = read_hex(data.decode("ascii", "backslashreplace"), path)
        for name, frames in messages:
            m = described(frames, limits, options.shape)
            good = good and not {"refused", "bad_tensor"} & m.keys()
            if options.json:
                print(json.dumps({"name": name} | m))
            elif "refused" in m:
                print(f"{name}: refused: {m['refused']}")
            else:
                print(f"{name}: {m.pop('message')}")
                print("\n".join(lines(m, "  ")))
    return 0 if good else 65


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # head may end it
    try:
        sys.exit(main())
    except Stop as stop:
        print(f"wire_decode.py: {stop}", file=sys.stderr)
        sys.exit(stop.code)
