"""The same network in every engine's own format, made from one model file.

    subject = SUBJECTS["resnet20b:2"]        ResNet20-B to its second exit
    make_model(subject, folder)              folder/resnet20b.safetensors
    make_formats(subject, folder, ...)       .onnx, .pt, .ncnn.param, .mnn, .tflite beside it
    reference(load(subject, folder), x)      PyTorch's float32 logits, [exit, batch, class]

Files that exist already are kept; delete the folder to make them anew. Weights are random (seed 1),
since only time is measured; ResNet20-B is the trained one of weights/. All formats hold float32 and
compute every exit up to the one asked for, as our engine does.
"""

import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import numpy
import torch
from torch.nn import functional

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import export_weights  # noqa: E402
import modelfile  # noqa: E402
import networks  # noqa: E402
from torchgraph import TorchGraph  # noqa: E402

OPSET = 13
SEED = 1


@dataclasses.dataclass(frozen=True)
class Subject:
    """A network, computed up to its exit number `exit`; 0 means that it has but one."""

    network: str
    title: str
    exit: int = 0

    def name(self):
        return f"{self.network}-{self.exit}" if self.exit else self.network

    def model_path(self, folder):
        return folder / f"{self.network}.safetensors"

    def path(self, folder, suffix):
        return folder / f"{self.name()}.{suffix}"


SUBJECTS = {
    "resnet20": Subject("resnet20", "ResNet-20"),
    "resnet20b:1": Subject("resnet20b", "ResNet20-B, exit 1", 1),
    "resnet20b:2": Subject("resnet20b", "ResNet20-B, exit 2", 2),
    "resnet20b:3": Subject("resnet20b", "ResNet20-B, exit 3", 3),
    "resnet56": Subject("resnet56", "ResNet-56"),
    "resnet18": Subject("resnet18", "ResNet-18 (224)"),
    "resnet50": Subject("resnet50", "ResNet-50 (224)"),
    "vgg16": Subject("vgg16", "VGG-16 (224)"),
}


class ExitGraph(TorchGraph):
    """A model file's graph up to one exit, in the operations that engines look for: vectors are
    [N, F], and the mean over the picture is a global average pool."""

    def __init__(self, model, exit):
        exits = model.exits[:exit] if exit else model.exits
        wanted = {e["logits"] for e in exits}
        layers = []
        for layer in reversed(model.graph):
            if layer["name"] in wanted:
                wanted.update(layer["inputs"])
                layers.insert(0, layer)
        used = {value for layer in layers for value in layer.values() if isinstance(value, str)}
        tensors = {name: tensor for name, tensor in model.tensors.items() if name in used}
        super().__init__(dataclasses.replace(model, graph=layers, exits=exits, tensors=tensors))
        self.input_shape, self.classes = tuple(model.input["shape"]), len(model.classes)

    def forward(self, x):
        values = {"input": x}
        for layer in self.layers:
            inputs = [values[name] for name in layer["inputs"]]
            values[layer["name"]] = self.execute(layer, inputs)
        return tuple(values[exit["logits"]] for exit in self.exits)

    def execute(self, layer, inputs):
        x = inputs[0]
        if layer["op"] == "linear":
            return functional.linear(
                x, self.weight(layer["weight"]), self.weight(layer["bias"])
            )
        if layer["op"] == "global_average_pool":
            return functional.adaptive_avg_pool2d(x, 1).flatten(1)
        if layer["op"] == "flatten":
            return x.flatten(1)
        return super().execute(layer, inputs)


def make_model(subject, folder):
    """Our model file of the network; returns its path."""
    path = subject.model_path(folder)
    if path.is_file():
        return path
    if subject.network == "resnet20b":
        shutil.copy(ROOT / "weights" / "resnet20b.safetensors", path)
        return path
    if subject.network in networks.SMALL:
        module = networks.build(subject.network, exits=False)
        shape, classes = networks.input_shape(subject.network), 10
    else:
        import torchvision

        module = getattr(torchvision.models, subject.network)(weights=None)
        shape, classes = (3, 224, 224), 1000
    export_weights.randomise(module, SEED)
    export_weights.export(
        module,
        path,
        name=subject.network,
        input_shape=shape,
        mean=[0, 0, 0],
        std=[1, 1, 1],
        classes=[f"class {n}" for n in range(classes)],
        source=f"random weights, seed {SEED}: for measurements of time",
    )
    return path


def load(subject, folder):
    return ExitGraph(modelfile.read_model(subject.model_path(folder)), subject.exit).eval()


def reference(module, x):
    """float32 [exit, batch, class]; a few samples at a time, for memory's sake."""
    with torch.no_grad():
        parts = [torch.stack(module(part)) for part in torch.from_numpy(x).split(8)]
    return torch.cat(parts, 1).numpy()


def samples(shape, count):
    """Sample n is the same in every batch."""
    return numpy.stack(
        [
            numpy.random.default_rng([SEED, n]).standard_normal(shape, numpy.float32)
            for n in range(count)
        ]
    )


def make_formats(subject, folder, scripts, peers):
    """Writes what `peers` need and returns {peer: why there is none}; `scripts` is the folder of
    the peers' own converters."""
    failures, module = {}, None
    for peer, (suffix, make) in FORMATS.items():
        path = subject.path(folder, suffix)
        if peer not in peers or path.is_file():
            continue
        module = module or load(subject, folder)
        try:
            make(module, path, scripts)
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            failures[peer] = f"cannot be converted: {describe(error)}"
    return failures


def describe(error):
    """The last line of what went wrong."""
    text = getattr(error, "stderr", None) or str(error)
    return (text.strip().splitlines() or [type(error).__name__])[-1]


def _to_onnx(module, path, scripts):
    names = ["input", *(f"exit{n + 1}" for n in range(len(module.exits)))]
    partial = path.with_suffix(".partial")
    torch.onnx.export(
        module,
        torch.zeros(2, *module.input_shape),
        str(partial),
        input_names=names[:1],
        output_names=names[1:],
        dynamic_axes={name: {0: "batch"} for name in names},
        opset_version=OPSET,
    )
    partial.rename(path)


def _to_torchscript(module, path, scripts):
    with torch.no_grad():
        traced = torch.jit.trace(module, torch.zeros(2, *module.input_shape))
    torch.jit.freeze(traced).save(str(path))


def _to_ncnn(module, path, scripts):
    shape = ",".join(map(str, (1, *module.input_shape)))
    with tempfile.TemporaryDirectory(dir=path.parent) as work, torch.no_grad():
        work = pathlib.Path(work)
        traced = torch.jit.trace(module, torch.zeros(1, *module.input_shape))
        traced.save(str(work / "net.pt"))
        _run([scripts / "pnnx", "net.pt", f"inputshape=[{shape}]", "fp16=0"], work)
        (work / "net.ncnn.bin").rename(path.with_suffix(".bin"))
        (work / "net.ncnn.param").rename(path)


def _to_mnn(module, path, scripts):
    onnx = path.with_suffix(".onnx")
    if not onnx.is_file():
        _to_onnx(module, onnx, scripts)
    _run(
        [scripts / "mnnconvert", "-f", "ONNX", "--modelFile", onnx, "--MNNModel", path]
        + ["--bizCode", "offramp"],
        path.parent,
    )


def _to_litert(module, path, scripts):
    with tempfile.TemporaryDirectory(dir=path.parent) as work:
        layers = pathlib.Path(work) / "layers.npz"
        _write_layers(module, layers)
        writer = ROOT / "bench" / "peers_litert.py"
        _run([scripts / "python", writer, layers, path], path.parent)


def _write_layers(module, path):
    """The graph as numpy arrays, for an interpreter that has no torch."""
    tensors = {name: module.weight(name).numpy() for name in module.names}
    graph = {
        "input": module.input_shape,
        "layers": module.layers,
        "exits": [exit["logits"] for exit in module.exits],
    }
    numpy.savez(path, **{"graph": json.dumps(graph)}, **{f"t:{n}": t for n, t in tensors.items()})


def _run(command, folder):
    subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        check=True,
        timeout=600,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


# peer -> suffix of its file, and what writes it
FORMATS = {
    "onnxruntime": ("onnx", _to_onnx),
    "openvino": ("onnx", _to_onnx),
    "ncnn": ("ncnn.param", _to_ncnn),
    "mnn": ("mnn", _to_mnn),
    "litert": ("tflite", _to_litert),
    "torch": ("pt", _to_torchscript),
}
