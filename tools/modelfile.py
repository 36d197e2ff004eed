"""Model files in plain Python and numpy: read, check, write, hash. The format is weights/FORMAT.md.

    model = read_model(path)     a Model, checked as strictly as the engine does
    write_model(path, model)     returns the hash
    shapes(model)                {layer name: (channels, height, width)}
    macs(model)                  {layer name: multiply-accumulates of one sample}

Bad files raise ModelError with one line that says where, what was wanted and what was found.
"""

import dataclasses
import hashlib
import json
import math
import os
import pathlib

import numpy

VERSION = "1"
ALIGNMENT = 64
MAX_HEADER_BYTES = 1 << 20

# op -> its attributes; a "pair" is [height, width], a "weight" the name of a tensor ("?": or null).
OPS = {
    "conv2d": {
        "kernel": "pair",
        "stride": "pair",
        "padding": "pair",
        "dilation": "pair",
        "groups": "int",
        "weight": "weight",
        "bias": "weight?",
    },
    "linear": {"weight": "weight", "bias": "weight?"},
    "batch_norm": {
        "weight": "weight?",
        "bias": "weight?",
        "mean": "weight",
        "variance": "weight",
        "epsilon": "number",
    },
    "relu": {},
    "add": {},
    "concat": {},
    "max_pool": {"kernel": "pair", "stride": "pair", "padding": "pair", "ceil_mode": "bool"},
    "average_pool": {
        "kernel": "pair",
        "stride": "pair",
        "padding": "pair",
        "ceil_mode": "bool",
        "count_include_pad": "bool",
    },
    "global_average_pool": {},
    "flatten": {},
    "subsample": {"stride": "pair"},
    "pad_channels": {"before": "int", "after": "int"},
}


CRITERIA = ("entropy", "probability", "margin", "patience")
TEMPERATURES = (0.01, 100)
MAX_TARGETS = 100


class ModelError(Exception):
    """A file that is not a model file, or whose parts do not fit together."""


@dataclasses.dataclass
class Model:
    """A model file in memory. `input`, `graph` and `exits` are the JSON values of FORMAT.md."""

    name: str
    input: dict
    classes: list
    graph: list
    exits: list
    tensors: dict  # name -> float32 array
    extra: dict = dataclasses.field(default_factory=dict)  # further metadata, string -> string

    def metadata(self):
        """Everything in `__metadata__` but the hash."""
        return {
            "format": "offramp",
            "offramp.version": VERSION,
            "offramp.name": self.name,
            "offramp.input": _to_json(self.input),
            "offramp.classes": _to_json(self.classes),
            "offramp.graph": _to_json(self.graph),
            "offramp.exits": _to_json(self.exits),
            **self.extra,
        }

    def targets(self):
        """The JSON value of `offramp.targets`, [] without it."""
        return _from_json(self.extra.get("offramp.targets", "[]"), "offramp.targets")

    def set_targets(self, targets):
        self.extra["offramp.targets"] = _to_json(targets)

    def rules(self):
        """The JSON value of `offramp.rules`, or what holds without it."""
        if "offramp.rules" in self.extra:
            return _from_json(self.extra["offramp.rules"], "offramp.rules")
        plain = {"criterion": "entropy", "temperature": 1.0}
        return [{**plain, "threshold": exit["threshold"]} for exit in self.exits]

    def set_rules(self, rules):
        self.extra["offramp.rules"] = _to_json(rules)

    def hash(self):
        return content_hash(self.tensors, self.metadata())


def content_hash(tensors, metadata):
    """BLAKE2b-256 over metadata (without offramp.hash) and tensors, as 64 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=32)
    for key in sorted(metadata, key=str.encode):
        if key != "offramp.hash":
            digest.update(key.encode() + b"\0" + metadata[key].encode() + b"\0")
    for name in sorted(tensors, key=str.encode):
        dimensions = "x".join(str(n) for n in tensors[name].shape)
        digest.update(name.encode() + b"\0F32\0" + dimensions.encode() + b"\0")
        digest.update(_bytes(tensors[name]))
    return digest.hexdigest()


# ---- safetensors ---------------------------------------------------------------------------------


def write_safetensors(path, tensors, metadata):
    """Writes float32 tensors in the order of the dict. The data begins at a multiple of 64 bytes.

    The file appears under its name only when it is complete.
    """
    header, offset = {"__metadata__": metadata}, 0
    for name, tensor in tensors.items():
        end = offset + 4 * tensor.size
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = _to_json(header).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    if len(text) > MAX_HEADER_BYTES:
        raise ModelError(f"{path}: header of {len(text)} bytes, at most {MAX_HEADER_BYTES} fit")
    partial = pathlib.Path(f"{path}.partial")
    try:
        with open(partial, "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for tensor in tensors.values():
                file.write(_bytes(tensor))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def read_safetensors(path):
    """(tensors, metadata) of a file of F32 tensors without overlap and holes."""
    with open(path, "rb") as file:
        data = file.read()
    length = int.from_bytes(data[:8], "little")
    _want(len(data) >= 8, path, f"wanted at least 8 bytes, found {len(data)}")
    _want(
        length <= MAX_HEADER_BYTES,
        path,
        f"header of {length} bytes, wanted {MAX_HEADER_BYTES} at most",
    )
    _want(8 + length <= len(data), path, f"header of {length} bytes in a file of {len(data)}")
    _want(
        (8 + length) % ALIGNMENT == 0,
        path,
        f"data at {8 + length}, wanted a multiple of {ALIGNMENT}",
    )
    header = _from_json(data[8 : 8 + length], f"{path}: header")
    _want(isinstance(header, dict), path, "header: wanted a JSON object")
    metadata = header.pop("__metadata__", {})
    _want(
        isinstance(metadata, dict) and all(isinstance(v, str) for v in metadata.values()),
        path,
        "__metadata__: wanted a map from string to string",
    )
    body, tensors, end = memoryview(data)[8 + length :], {}, 0
    for name, entry in header.items():
        _check_entry(f"{path}: {name}", entry)
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        first, last = entry["data_offsets"]
        _want(first == end, f"{path}: {name}", f"data begins at {first}, wanted {end}")
        end = last
        _want(last <= len(body), f"{path}: {name}", f"data ends at {last} of {len(body)} bytes")
        tensors[name] = numpy.frombuffer(body[first:last], "<f4").reshape(entry["shape"])
        _want(numpy.isfinite(tensors[name]).all(), f"{path}: {name}", "holds a NaN or an infinity")
    _want(end == len(body), path, f"tensors end at {end} of {len(body)} bytes of data")
    return {name: tensors[name] for name in header}, metadata


def _check_entry(where, entry):
    _want(
        isinstance(entry, dict) and set(entry) == {"dtype", "shape", "data_offsets"},
        where,
        "wanted dtype, shape and data_offsets",
    )
    _want(entry["dtype"] == "F32", where, f"wanted dtype F32, found {entry['dtype']}")
    for key in ("shape", "data_offsets"):
        _want(
            isinstance(entry[key], list) and all(_is_count(n) for n in entry[key]),
            where,
            f"{key}: wanted a list of sizes",
        )
    _want(len(entry["data_offsets"]) == 2, where, "data_offsets: wanted two")
    first, last = entry["data_offsets"]
    wanted = 4 * math.prod(entry["shape"])
    _want(last - first == wanted, where, f"shape wants {wanted} bytes, found {last - first}")


# ---- models --------------------------------------------------------------------------------------


def write_model(path, model):
    """Checks and writes a model; returns its hash."""
    check(model, str(path))
    digest = model.hash()
    write_safetensors(path, model.tensors, {**model.metadata(), "offramp.hash": digest})
    return digest


def read_model(path):
    """Reads and checks a model."""
    tensors, metadata = read_safetensors(path)
    for key, wanted in (("format", "offramp"), ("offramp.version", VERSION)):
        _want(
            metadata.get(key) == wanted, path, f"{key}: wanted {wanted}, found {metadata.get(key)}"
        )
    known = ("name", "input", "classes", "graph", "exits", "hash")
    for key in known:
        _want(f"offramp.{key}" in metadata, path, f"no offramp.{key}")
    digest = content_hash(tensors, metadata)
    _want(
        metadata["offramp.hash"] == digest,
        path,
        f"offramp.hash: wanted {digest}, found {metadata['offramp.hash']}",
    )
    standing = {"format", "offramp.version", *(f"offramp.{key}" for key in known)}
    parts = {
        key: _from_json(metadata[f"offramp.{key}"], f"{path}: offramp.{key}")
        for key in ("input", "classes", "graph", "exits")
    }
    model = Model(
        metadata["offramp.name"],
        **parts,
        tensors=tensors,
        extra={key: value for key, value in metadata.items() if key not in standing},
    )
    check(model, str(path))
    return model


def check(model, where):
    """Raises ModelError unless the parts of `model` fit each other."""
    _want(isinstance(model.name, str) and model.name, where, "the name is empty")
    _check_input(model.input, f"{where}: offramp.input")
    _check_names(model.classes, f"{where}: offramp.classes")
    _want(len(model.classes) > 1, f"{where}: offramp.classes", "wanted two or more")
    for layer in model.graph:
        _check_layer(layer, f"{where}: offramp.graph")
    _check_names([layer["name"] for layer in model.graph] + ["input"], f"{where}: offramp.graph")
    of = shapes(model, where)
    used = {
        layer[key]
        for layer in model.graph
        for key, kind in OPS[layer["op"]].items()
        if kind.startswith("weight") and layer[key] is not None
    }
    for name in model.tensors:
        _want(name in used, f"{where}: {name}", "no layer uses this tensor")
    _check_names([exit["name"] for exit in model.exits], f"{where}: offramp.exits")
    for exit in model.exits:
        here = f"{where}: exit {exit['name']}"
        _want(set(exit) == {"name", "logits", "threshold"}, here, "wanted name, logits, threshold")
        _want(exit["logits"] in of, here, f"no layer {exit['logits']}")
        wanted = (len(model.classes), 1, 1)
        _want(
            of[exit["logits"]] == wanted,
            here,
            f"wanted {wanted[0]} logits, found {_text(of[exit['logits']])}",
        )
        _want(
            _is_number(exit["threshold"]) and 0 <= exit["threshold"] <= 1,
            here,
            f"wanted a threshold in [0, 1], found {exit['threshold']}",
        )
    for key, check_value in (("offramp.rules", _check_rules), ("offramp.targets", _check_targets)):
        if key in model.extra:
            here = f"{where}: {key}"
            check_value(_from_json(model.extra[key], here), len(model.exits), here)


def _check_rules(rules, exits, where):
    _want(isinstance(rules, list) and len(rules) == exits, where, f"wanted {exits} rules")
    for number, rule in enumerate(rules):
        here, last = f"{where}, exit {number}", number + 1 == exits
        _want_keys(rule, {"criterion", "temperature"}, {"threshold"}, here)
        _want(rule["criterion"] in CRITERIA, here, f"criterion: found {rule['criterion']}")
        _want_number(rule, "temperature", *TEMPERATURES, here)
        if not last:
            _want("threshold" in rule, here, "no threshold")
            _want_number(rule, "threshold", 0, 1, here)


def _check_targets(targets, exits, where):
    _want(
        isinstance(targets, list) and len(targets) <= MAX_TARGETS,
        where,
        f"wanted a list of at most {MAX_TARGETS}",
    )
    for number, target in enumerate(targets):
        here = f"{where}, target {number}"
        _want_keys(target, {"name", "points", "confidence", "rules", "heldout"}, set(), here)
        _want_number(target, "points", 0, 100, here)
        _want_number(target, "confidence", 0, 1, here)
        _check_rules(target["rules"], exits, f"{here}: rules")
        found, here = target["heldout"], f"{here}: heldout"
        _want_keys(found, {"pictures", "loss", "shares", "cost"}, set(), here)
        _want(_is_count(found["pictures"]) and found["pictures"] > 0, here, "wanted pictures")
        _want_number(found, "loss", -100, 100, here)
        _want_number(found, "cost", 0, 1, here)
        shares = found["shares"]
        _want(
            isinstance(shares, list) and len(shares) == exits and all(map(_is_number, shares)),
            here,
            f"shares: wanted {exits} numbers",
        )
    if targets:
        _check_names([target["name"] for target in targets], where)


def _want_keys(value, wanted, optional, where):
    found = set(value) if isinstance(value, dict) else set()
    _want(wanted <= found <= wanted | optional, where, f"wanted {', '.join(sorted(wanted))}")


def _want_number(entry, key, lowest, highest, where):
    value = entry[key]
    _want(
        _is_number(value) and lowest <= value <= highest,
        where,
        f"{key}: wanted {lowest} to {highest}, found {value}",
    )


def _check_input(value, where):
    wanted = {"shape", "resize", "mean", "std"}
    shorter = isinstance(value, dict) and value.get("resize") == "shorter"
    _want(
        isinstance(value, dict) and set(value) == wanted | ({"resize_to"} if shorter else set()),
        where,
        "wanted shape, resize, mean, std, and resize_to with shorter only",
    )
    shape = value["shape"]
    _want(
        isinstance(shape, list)
        and len(shape) == 3
        and all(_is_count(n) and n > 0 for n in shape)
        and shape[0] == 3,
        where,
        f"shape: wanted [3, height, width], found {shape}",
    )
    _want(value["resize"] in ("stretch", "shorter"), where, f"resize: found {value['resize']}")
    _want(
        not shorter or (_is_count(value["resize_to"]) and value["resize_to"] >= max(shape[1:])),
        where,
        f"resize_to: wanted at least {max(shape[1:])}",
    )
    for key in ("mean", "std"):
        _want(
            isinstance(value[key], list)
            and len(value[key]) == 3
            and all(_is_number(n) for n in value[key]),
            where,
            f"{key}: wanted 3 numbers",
        )
    _want(min(value["std"]) > 0, where, f"std: wanted positive numbers, found {value['std']}")


def _check_names(names, where):
    _want(isinstance(names, list) and names, where, "wanted a list that is not empty")
    seen = set()
    for name in names:
        _want(isinstance(name, str) and name, where, f"wanted a name, found {name!r}")
        _want(name not in seen, where, f"two are named {name}")
        seen.add(name)


def _check_layer(layer, where):
    _want(isinstance(layer, dict) and layer.get("op") in OPS, where, f"unknown layer {layer}")
    attributes = OPS[layer["op"]]
    here = f"{where}: {layer.get('name')}"
    _want(
        set(layer) == {"name", "op", "inputs", *attributes},
        here,
        f"{layer['op']}: wanted {', '.join(attributes) or 'no attributes'}",
    )
    fits = {
        "pair": lambda v: isinstance(v, list) and len(v) == 2 and all(_is_count(n) for n in v),
        "int": _is_count,
        "bool": lambda v: isinstance(v, bool),
        "number": _is_number,
        "weight": lambda v: isinstance(v, str),
        "weight?": lambda v: v is None or isinstance(v, str),
    }
    for key, kind in attributes.items():
        _want(fits[kind](layer[key]), here, f"{key}: wanted {kind}, found {layer[key]}")
    count = len(layer["inputs"])
    _want(
        (
            count == 2
            if layer["op"] == "add"
            else count >= 2
            if layer["op"] == "concat"
            else count == 1
        ),
        here,
        f"{layer['op']} with {count} inputs",
    )


# ---- shapes --------------------------------------------------------------------------------------


def shapes(model, where=""):
    """{name: (channels, height, width)} of all layers and of "input"."""
    of = {"input": tuple(model.input["shape"])}
    for layer in model.graph:
        here = f"{where}: {layer['name']}"
        for name in layer["inputs"]:
            _want(name in of, here, f"reads {name}, which is not an earlier layer")
        of[layer["name"]] = output_shape(
            layer, [of[n] for n in layer["inputs"]], model.tensors, here
        )
    return of


def output_shape(layer, inputs, tensors, where):
    """Shape of one layer's output; checks the shapes of its weights."""
    channels, height, width = inputs[0]
    op = layer["op"]

    def weight(key, wanted):
        if layer[key] is None:
            return
        _want(layer[key] in tensors, where, f"no tensor {layer[key]}")
        found = tensors[layer[key]].shape
        _want(found == wanted, where, f"{layer[key]}: wanted {_text(wanted)}, found {_text(found)}")

    def windows(dilation=(1, 1), ceil_mode=False):
        size = [
            _windows(n, *args, ceil_mode)
            for n, *args in zip(
                (height, width), layer["kernel"], layer["stride"], layer["padding"], dilation
            )
        ]
        _want(min(size) > 0, where, f"{op} does not fit into {height}x{width}")
        return size

    if op == "conv2d":
        outputs, groups = len(tensors.get(layer["weight"], ())), layer["groups"]
        _want(
            groups > 0 and channels % groups == 0 and outputs % groups == 0,
            where,
            f"{groups} groups do not divide {channels} and {outputs} channels",
        )
        weight("weight", (outputs, channels // groups, *layer["kernel"]))
        weight("bias", (outputs,))
        return (outputs, *windows(layer["dilation"]))
    if op == "linear":
        outputs = len(tensors.get(layer["weight"], ()))
        _want(height == width == 1, where, f"wanted a vector, found {_text(inputs[0])}")
        weight("weight", (outputs, channels))
        weight("bias", (outputs,))
        return (outputs, 1, 1)
    if op == "batch_norm":
        for key in ("weight", "bias", "mean", "variance"):
            weight(key, (channels,))
        _want(
            (tensors[layer["variance"]] + layer["epsilon"] > 0).all(),
            where,
            "wanted variance + epsilon > 0",
        )
        return inputs[0]
    if op == "add":
        _want(inputs[0] == inputs[1], where, f"adds {_text(inputs[0])} and {_text(inputs[1])}")
        return inputs[0]
    if op == "concat":
        _want(
            all(shape[1:] == (height, width) for shape in inputs),
            where,
            f"joins {', '.join(map(_text, inputs))}",
        )
        return (sum(shape[0] for shape in inputs), height, width)
    if op in ("max_pool", "average_pool"):
        for size, border in zip(layer["kernel"], layer["padding"]):
            _want(2 * border <= size, where, f"padding {border} is more than half of {size}")
        return (channels, *windows(ceil_mode=layer["ceil_mode"]))
    if op == "global_average_pool":
        return (channels, 1, 1)
    if op == "flatten":
        return (channels * height * width, 1, 1)
    if op == "subsample":
        _want(min(layer["stride"]) > 0, where, f"stride {layer['stride']}")
        return (channels, -(-height // layer["stride"][0]), -(-width // layer["stride"][1]))
    if op == "pad_channels":
        return (channels + layer["before"] + layer["after"], height, width)
    return inputs[0]


def macs(model):
    """{name: multiply-accumulates of one sample} of convolutions and linear layers."""
    of = shapes(model)
    return {
        layer["name"]: model.tensors[layer["weight"]][0].size * math.prod(of[layer["name"]])
        for layer in model.graph
        if layer["op"] in ("conv2d", "linear")
    }


def _windows(size, kernel, stride, padding, dilation, ceil_mode):
    """Windows along one axis. With ceil_mode the last must begin in the input or left border."""
    room = size + 2 * padding - dilation * (kernel - 1) - 1
    if kernel < 1 or stride < 1 or dilation < 1 or room < 0:
        return 0
    count = (room + stride - 1 if ceil_mode else room) // stride + 1
    return count - 1 if ceil_mode and (count - 1) * stride >= size + padding else count


# ---- small things --------------------------------------------------------------------------------


def _want(condition, where, message):
    if not condition:
        raise ModelError(f"{where}: {message}")


def _text(shape):
    return "x".join(str(n) for n in shape) or "a scalar"


def _is_count(value):
    return type(value) is int and value >= 0


def _is_number(value):
    return type(value) in (int, float) and math.isfinite(value)


def _bytes(tensor):
    return numpy.ascontiguousarray(tensor, "<f4").tobytes()


def _to_json(value):
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _from_json(text, where):
    def distinct(pairs):
        keys = [key for key, _ in pairs]
        _want(len(set(keys)) == len(keys), where, "duplicate key")
        return dict(pairs)

    def refuse(constant):
        raise ModelError(f"{where}: {constant} is not JSON")

    try:
        if isinstance(text, bytes):
            text = text.decode()
        return json.loads(text, object_pairs_hook=distinct, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{where}: not JSON ({error})") from None
