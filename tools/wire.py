"""net/WIRE.md in Python: reads, refuses and writes messages and tensors, and reads keys.

A second implementation, made from the specification alone: what it and net/message.cpp do not
agree on is a mistake in one of them or in the specification. `decode` and `encode`, `decode_tensor`
and `encode_tensor`; tools/wire_decode.py is the command.
"""

import collections
import math
import pathlib
import struct

import lz4.block
import numpy
import xxhash

MAGIC, MAJOR, MINOR = b"OFRP", 1, 2
FIXED_BYTES = 96
MAX_SIDE = 1 << 24
MAX_TEXT, MAX_HOPS = 512, 8
TYPES = {
    1: "HELLO",
    2: "WELCOME",
    3: "INFER",
    4: "RESULT",
    5: "ERROR",
    6: "CREDIT",
    7: "PING",
    8: "PONG",
    9: "CANCEL",
    10: "DRAIN",
    11: "BYE",
}
TIERS = ("device", "edge", "cloud")
DTYPES = {1: "f32", 2: "f16", 3: "u8", 4: "u8c", 5: "pixels"}
CODECS = ("raw", "lz4")
REASONS = (
    "ok",
    "no next tier",
    "disconnected",
    "late",
    "peer lost",
    "overloaded",
    "draining",
    "model mismatch",
    "expired",
    "refused",
)
ERRORS = {
    1: "version",
    2: "model mismatch",
    3: "no session",
    4: "overloaded",
    5: "draining",
    6: "expired",
    7: "bad tensor",
    8: "no answer",
}
LEAST_SCALE = 2.0**-126
LARGEST_SCALE = float(numpy.finfo(numpy.float32).max) / 256

Fixed = collections.namedtuple(
    "Fixed",
    "magic major minor type flags header_bytes dtype codec ndim attempt hop cut session counter "
    "budget_us payload_bytes raw_bytes credit tier reserved model n h w c reserved2 xxh3",
)
LAYOUT = struct.Struct("<4s4BH6BQQIIIHBB16s4IQQ")
assert LAYOUT.size == FIXED_BYTES


class Refused(Exception):
    """Not a message; str() is the reason's name."""


class BadTensor(Exception):
    """str() is one of: size, packed, scale, not finite."""


# What the receiver's model bounds, and the largest payload once unpacked.
Limits = collections.namedtuple("Limits", "classes exits payload", defaults=(2**31, 2**31, 2**30))


def check(good, reason):
    if not good:
        raise Refused(reason)


# ---- reading -------------------------------------------------------------------------------------


def finite(*numbers):
    return all(math.isfinite(number) for number in numbers)


def read_text(value, limits):
    check(len(value) <= MAX_TEXT, "item")
    return "".join(chr(c) if 0x20 <= c < 0x7F else "?" for c in value)


def read_probabilities(value, limits):
    check(len(value) % 4 == 0 and len(value) // 4 <= limits.classes, "item")
    numbers = [number for (number,) in struct.iter_unpack("<f", value)]
    check(finite(*numbers), "field")
    return numbers


def unpack(layout, value):
    check(struct.calcsize(layout) == len(value), "item")
    return struct.unpack(layout, value)


def read_hop(value, limits):
    tier, *numbers = unpack("<B4I", value)
    check(tier < len(TIERS), "field")
    names = ("queue_us", "compute_us", "wait_us", "sent_bytes")
    return {"tier": TIERS[tier], **dict(zip(names, numbers))}


def read_decision(value, limits):
    label, probability, entropy, exit_, reason = unpack("<iffiB", value)
    check(0 <= label < limits.classes and 0 <= exit_ < limits.exits, "field")
    check(finite(probability, entropy) and reason < len(REASONS), "field")
    return {
        "label": label,
        "probability": probability,
        "entropy": entropy,
        "exit": exit_,
        "reason": REASONS[reason],
    }


def read_fault(value, limits):
    (code,) = unpack("<H", value)
    return {"code": code, "error": ERRORS.get(code, "unknown")}


def numbers_of(layout, *names):
    return lambda value, limits: dict(zip(names, unpack(layout, value)))


# type: name, reader
ITEMS = {
    0x01: ("TEXT", read_text),
    0x02: ("PROBABILITIES", read_probabilities),
    0x03: ("HOP", read_hop),
    0x04: ("LOAD", numbers_of("<II", "queue_depth", "held_us")),
    0x05: ("PACE", numbers_of("<IH", "service_us", "workers")),
    0x06: ("RETRY_AFTER", numbers_of("<I", "retry_after_us")),
    0x07: ("PICTURES", numbers_of("<")),
    0x81: ("DECISION", read_decision),
    0x82: ("FAULT", read_fault),
}


def read_items(data, limits):
    """{name: value}, HOP with a list of them; SKIPPED with those of later versions."""
    items = {"HOP": [], "SKIPPED": []}
    while data:
        check(len(data) >= 3, "item")
        number, size = struct.unpack_from("<BH", data)
        value, data = data[3 : 3 + size], data[3 + size :]
        check(len(value) == size, "item")
        if number not in ITEMS:
            check(number < 0x80, "unknown item")
            items["SKIPPED"].append({"type": number, "value": value.hex()})
            continue
        name, read = ITEMS[number]
        if name == "HOP":
            check(len(items["HOP"]) < MAX_HOPS, "item")
            items["HOP"].append(read(value, limits))
        else:
            check(name not in items, "item")
            items[name] = read(value, limits)
    return items


def read_shape(f):
    check(f.ndim == 4 and f.n == 1, "field")
    check(all(1 <= side <= MAX_SIDE for side in (f.h, f.w, f.c)), "field")
    return [f.h, f.w, f.c]


def read_tier(f):
    check(f.tier < len(TIERS), "field")
    return TIERS[f.tier]


def read_greeting(f, items):
    shape = read_shape(f)
    check(f.dtype == 1, "field")
    message = {"session": f.session, "model": f.model.hex(), "cut": f.cut, "shape": shape}
    if TYPES[f.type] == "WELCOME":
        message |= {"tier": read_tier(f), "window": f.credit, "pictures": "PICTURES" in items}
    return message | {"minor": f.minor}


def read_infer(f, items):
    shape = read_shape(f)
    check(f.dtype in DTYPES and f.codec < len(CODECS), "field")
    return {
        "session": f.session,
        "counter": f.counter,
        "model": f.model.hex(),
        "cut": f.cut,
        "attempt": f.attempt,
        "hop": f.hop,
        "budget_us": f.budget_us,
        "dtype": DTYPES[f.dtype],
        "codec": CODECS[f.codec],
        "shape": shape,
        "raw_bytes": f.raw_bytes,
    }


def read_result(f, items):
    check("DECISION" in items, "item")
    return {
        "session": f.session,
        "counter": f.counter,
        "tier": read_tier(f),
        **items["DECISION"],
        "hops": items["HOP"],
        "probabilities": items.get("PROBABILITIES", []),
    }


def read_error(f, items):
    check("FAULT" in items, "item")
    return {
        "session": f.session,
        "counter": f.counter,
        **items["FAULT"],
        "model": f.model.hex(),
        "text": items.get("TEXT", ""),
        **items.get("RETRY_AFTER", {"retry_after_us": 0}),
    }


def read_pong(f, items):
    load = items.get("LOAD", {"queue_depth": 0, "held_us": 0})
    return {"sequence": f.counter, **load, **items.get("PACE", {"service_us": 0, "workers": 0})}


READERS = {
    "HELLO": read_greeting,
    "WELCOME": read_greeting,
    "INFER": read_infer,
    "RESULT": read_result,
    "ERROR": read_error,
    "CREDIT": lambda f, items: {"window": f.credit},
    "PING": lambda f, items: {"sequence": f.counter},
    "PONG": read_pong,
    "CANCEL": lambda f, items: {"session": f.session, "counter": f.counter},
    "DRAIN": lambda f, items: {},
    "BYE": lambda f, items: {},
}


def check_payload(f, payload, limits):
    if TYPES[f.type] != "INFER":
        check(not payload, "payload")
        return
    check(f.payload_bytes == len(payload) and f.raw_bytes <= limits.payload, "payload")
    packed = CODECS[f.codec] != "raw"
    check(f.raw_bytes > len(payload) if packed else f.raw_bytes == len(payload), "payload")
    check(xxhash.xxh3_64_intdigest(payload) == f.xxh3, "checksum")


def decode(frames, limits=Limits()):
    """A message as {"message": "INFER", field: value...}. An INFER has its payload's bytes under
    "payload". "frame" holds what concerns the carrier. Raises Refused, for the first reason in
    the order of the specification."""
    check(len(frames) == 2, "frame count")
    header, payload = frames
    check(len(header) >= FIXED_BYTES, "truncated header")
    f = Fixed._make(LAYOUT.unpack_from(header))
    check(f.magic == MAGIC, "magic")
    check(f.major == MAJOR, "version")
    check(f.header_bytes == len(header), "header length")
    check(f.flags == 0, "flags")
    items = read_items(header[FIXED_BYTES:], limits)
    check(f.type in TYPES, "type")
    message = {"message": TYPES[f.type], **READERS[TYPES[f.type]](f, items)}
    check_payload(f, payload, limits)
    message["frame"] = {
        "version": f"{f.major}.{f.minor}",
        "header_bytes": f.header_bytes,
        "payload_bytes": len(payload),
        "skipped_items": items["SKIPPED"],
    }
    if message["message"] == "INFER":
        message["frame"]["xxh3"] = f"{f.xxh3:016x}"
        message["payload"] = bytes(payload)
    return message


# ---- writing -------------------------------------------------------------------------------------


def item(number, layout, *numbers):
    value = layout if isinstance(layout, bytes) else struct.pack(layout, *numbers)
    return struct.pack("<BH", number, len(value)) + value


def write_items(m):
    """In the order in which net/message.cpp writes them, though any would do."""
    kind, out = m["message"], b""
    if kind == "WELCOME" and m.get("pictures"):
        out += item(0x07, b"")
    elif kind == "RESULT":
        numbers = (m[name] for name in ("label", "probability", "entropy", "exit"))
        out += item(0x81, "<iffiB", *numbers, REASONS.index(m.get("reason", "ok")))
        for hop in m.get("hops", []):
            tier, *numbers = hop.values()
            out += item(0x03, "<B4I", TIERS.index(tier), *numbers)
        if m.get("probabilities"):
            out += item(0x02, f"<{len(m['probabilities'])}f", *m["probabilities"])
    elif kind == "ERROR":
        out += item(0x82, "<H", m["code"])
        out += item(0x01, m.get("text", "").encode("ascii", "replace")[:MAX_TEXT])
        if m.get("retry_after_us"):
            out += item(0x06, "<I", m["retry_after_us"])
    elif kind == "PONG":
        out += item(0x04, "<II", m.get("queue_depth", 0), m.get("held_us", 0))
        if m.get("workers"):
            out += item(0x05, "<IH", m["service_us"], m["workers"])
    return out


def encode(m):
    """The two frames of a message as decode() returns it; fields that it lacks are 0."""
    kind, items, payload = m["message"], write_items(m), m.get("payload", b"")
    number = next(n for n, name in TYPES.items() if name == kind)
    has_shape = "shape" in m
    f = Fixed(
        magic=MAGIC,
        major=MAJOR,
        minor=MINOR,
        type=number,
        flags=0,
        header_bytes=FIXED_BYTES + len(items),
        dtype=next((n for n, name in DTYPES.items() if name == m.get("dtype", "f32")), 0)
        if has_shape
        else 0,
        codec=CODECS.index(m.get("codec", "raw")),
        ndim=4 if has_shape else 0,
        attempt=m.get("attempt", 0),
        hop=m.get("hop", 0),
        cut=m.get("cut", 0),
        session=m.get("session", 0),
        counter=m.get("counter", m.get("sequence", 0)),
        budget_us=m.get("budget_us", 0),
        payload_bytes=len(payload),
        raw_bytes=m.get("raw_bytes", len(payload)),
        credit=m.get("window", 0),
        tier=TIERS.index(m.get("tier", "device")),
        reserved=0,
        model=bytes.fromhex(m.get("model", "")),
        n=1 if has_shape else 0,
        h=m["shape"][0] if has_shape else 0,
        w=m["shape"][1] if has_shape else 0,
        c=m["shape"][2] if has_shape else 0,
        reserved2=0,
        xxh3=xxhash.xxh3_64_intdigest(payload) if kind == "INFER" else 0,
    )
    return LAYOUT.pack(*f) + items, payload


# ---- tensors -------------------------------------------------------------------------------------


def raw_bytes(dtype, shape):
    elements, channels = shape[0] * shape[1] * shape[2], shape[2]
    return {
        "f32": 4 * elements,
        "f16": 2 * elements,
        "u8": elements + 5,
        "u8c": elements + 5 * channels,
        "pixels": elements,
    }[dtype]


def unpack_payload(m, wanted):
    if m["raw_bytes"] != wanted:
        raise BadTensor("size")
    payload = m["payload"]
    if m["codec"] == "raw":
        if len(payload) != wanted:
            raise BadTensor("size")
        return payload
    try:
        unpacked = lz4.block.decompress(payload, uncompressed_size=wanted)
    except lz4.block.LZ4BlockError:
        raise BadTensor("packed") from None
    if len(unpacked) != wanted:
        raise BadTensor("packed")
    return unpacked


def decode_tensor(m, shape=None, mean=(0, 0, 0), std=(1, 1, 1)):
    """The tensor of an INFER, float32[H, W, C]. `shape`, and for pixels `mean` and `std`, are those
    of the receiver's model. Raises BadTensor."""
    shape = list(shape or m["shape"])
    data = unpack_payload(m, raw_bytes(m["dtype"], shape))
    if m["dtype"] in ("f32", "f16"):
        x = numpy.frombuffer(data, "<f4" if m["dtype"] == "f32" else "<f2").astype("<f4")
        if not numpy.isfinite(x).all():
            raise BadTensor("not finite")
        return x.reshape(shape)
    if m["dtype"] == "pixels":
        x = numpy.frombuffer(data, "u1").astype("<f4").reshape(shape)
        if shape[2] != 3:
            raise BadTensor("size")
        return (x / numpy.float32(255) - numpy.array(mean, "<f4")) / numpy.array(std, "<f4")
    groups = 1 if m["dtype"] == "u8" else shape[2]
    scale = numpy.frombuffer(data, "<f4", groups)
    zero = numpy.frombuffer(data, "u1", groups, 4 * groups).astype("<f4")
    # NaN fails both comparisons.
    if not all(LEAST_SCALE <= float(s) <= LARGEST_SCALE for s in scale):
        raise BadTensor("scale")
    q = numpy.frombuffer(data, "u1", offset=5 * groups).astype("<f4").reshape(shape)
    return scale * (q - zero)


def quantise(x):
    """(scale, zero, elements) for each column of float32[rows, columns]."""
    low = numpy.minimum(x.min(axis=0), 0).astype("f8")
    high = numpy.maximum(x.max(axis=0), 0).astype("f8")
    # A little more than a 255th, so that no element falls outside wherever zero is rounded to.
    scale = numpy.maximum((high - low) / 254.99, LEAST_SCALE).astype("<f4")
    zero = numpy.floor(-low / scale + 0.5)
    q = numpy.clip(numpy.floor(x / scale.astype("f8") + zero + 0.5), 0, 255)
    return scale, zero.astype("u1"), q.astype("u1")


def encode_tensor(x, dtype="f32", lz4_wanted=False):
    """The fields of an INFER that hold float32[H, W, C]; not as pixels. Raises BadTensor for what
    dtype cannot hold."""
    x = numpy.ascontiguousarray(x, "<f4")
    if not numpy.isfinite(x).all() or (dtype == "f16" and not (abs(x) < 65520).all()):
        raise BadTensor("not finite")
    if dtype in ("f32", "f16"):
        payload = x.astype("<f4" if dtype == "f32" else "<f2").tobytes()
    else:
        scale, zero, q = quantise(x.reshape(-1, x.shape[2] if dtype == "u8c" else 1))
        if not (scale <= LARGEST_SCALE).all():
            raise BadTensor("scale")
        payload = scale.tobytes() + zero.tobytes() + q.tobytes()
    tensor = {"dtype": dtype, "codec": "raw", "shape": list(x.shape), "raw_bytes": len(payload)}
    if lz4_wanted:
        packed = lz4.block.compress(payload, store_size=False)
        if len(packed) < len(payload):
            tensor["codec"], payload = "lz4", packed
    return tensor | {"payload": payload}


# ---- keys ----------------------------------------------------------------------------------------


def read_keys(folder):
    """The secret key of a folder's owner and the public one of all nodes of the next tier, 40
    characters of Z85 each. Raises ValueError."""
    keys = []
    for name, form in (("self.key", ["secret-key"]), ("next.pub", [])):
        path = pathlib.Path(folder) / name
        *before, key = path.read_text(encoding="ascii").split() or [""]
        if before != form or len(key) != 40:
            wanted = " ".join([*form, "KEY"])
            raise ValueError(f"{path}: wanted '{wanted}' of 40 characters, found something else")
        keys.append(key.encode())
    return keys
