#!/usr/bin/env python3
"""Compares the engine's logits with PyTorch's, for every picture and every exit.

    compare_with_pytorch.py weights/resnet20b.safetensors DATA [--isa all] [--conv all] [--limit N]

DATA (or DATA/cifar-10-batches-bin) holds CIFAR-10's test_batch.bin, or DATA has one subfolder for
each class. PyTorch runs the graph of the model file in float32; the engine is asked
through `offramp eval --logits FILE`, once for each instruction set and convolution algorithm.

For each exit must hold: logits differ by at most 1e-4 of the largest one; top-1 is equal wherever
PyTorch's margin between first and second exceeds that; accuracies differ by at most 0.02 points.
Exit codes: 0 all holds, 1 something does not, 64 option, 65 bad data, 66 missing file,
69 the engine failed.
"""

import dataclasses
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy
import PIL.Image
import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import modelfile  # noqa: E402
from commandline import Parser, Stop  # noqa: E402
from torchgraph import TorchGraph, normalise, prepare  # noqa: E402

LOGIT_TOLERANCE = 1e-4  # of an exit's largest |logit|
ACCURACY_TOLERANCE = 0.02  # percentage points
BATCH_PIXELS = 250 * 32 * 32
CIFAR_RECORD = 1 + 3 * 32 * 32
PICTURES = {".png", ".jpg", ".jpeg", ".bmp"}
CONVS = ("auto", "direct", "winograd2", "winograd4", "winograd6", "im2col")


# ---- data ----------------------------------------------------------------------------------------


class CifarData:
    """Records of one label and 3,072 bytes of pixels, channel by channel."""

    def __init__(self, path):
        data = numpy.fromfile(path, numpy.uint8)
        if data.size == 0 or data.size % CIFAR_RECORD:
            raise Stop(65, f"{path}: wanted a multiple of {CIFAR_RECORD} bytes, found {data.size}")
        records = data.reshape(-1, CIFAR_RECORD)
        self.labels = records[:, 0].astype(int)
        self.pixels = records[:, 1:].reshape(-1, 3, 32, 32)

    def inputs(self, first, last, how):
        pixels = self.pixels[first:last]
        if how["shape"] == [3, 32, 32] and how["resize"] == "stretch":
            return normalise(pixels, how)
        pictures = [PIL.Image.fromarray(p.transpose(1, 2, 0)) for p in pixels]
        return numpy.stack([prepare(picture, how) for picture in pictures])


class FolderData:
    """One subfolder for each class: in the model's order, then by file name in byte order."""

    def __init__(self, folder, classes):
        known = {child.name for child in folder.iterdir() if child.is_dir()}
        for name in sorted(known - set(classes)):
            raise Stop(65, f"{folder / name}: wanted the name of one of the model's classes")
        self.paths, labels = [], []
        for label, name in enumerate(classes):
            files = sorted((folder / name).iterdir(), key=os.fsencode) if name in known else []
            files = [file for file in files if file.suffix.lower() in PICTURES]
            self.paths += files
            labels += [label] * len(files)
        self.labels = numpy.array(labels, int)

    def inputs(self, first, last, how):
        pictures = []
        for path in self.paths[first:last]:
            try:
                with PIL.Image.open(path) as picture:
                    pictures.append(prepare(picture, how))
            except OSError:
                raise Stop(65, f"{path}: wanted a picture, found something else") from None
        return numpy.stack(pictures)


def open_data(folder, classes):
    for path in (folder / "test_batch.bin", folder / "cifar-10-batches-bin" / "test_batch.bin"):
        if path.is_file():
            return CifarData(path)
    if not folder.is_dir():
        raise Stop(66, f"{folder}: wanted a folder with test_batch.bin or subfolders, found none")
    data = FolderData(folder, classes)
    if len(data.labels) == 0:
        raise Stop(66, f"{folder}: wanted test_batch.bin or pictures in subfolders, found neither")
    return data


# ---- the two sides -------------------------------------------------------------------------------


def progress(text):
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def pytorch_logits(model, data, count):
    """float32 [count, exits, classes]."""
    torch.set_num_threads(os.cpu_count() or 1)
    graph = TorchGraph(model)
    _, height, width = model.input["shape"]
    batch = max(1, min(250, BATCH_PIXELS // (height * width)))
    parts = []
    for first in range(0, count, batch):
        progress(f"PyTorch: {first} of {count} pictures")
        x = torch.from_numpy(data.inputs(first, min(first + batch, count), model.input))
        parts.append(torch.stack(graph(x), dim=1).numpy())
    progress("")
    return numpy.concatenate(parts)


def engine_logits(options, isa, conv, shape):
    """float32 [count, exits, classes] of `offramp eval` with an instruction set and algorithm."""
    progress(f"offramp: {isa} {conv}")
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "logits.bin"
        command = [
            options.offramp,
            "eval",
            "--data",
            options.data,
            "--model",
            options.model,
            "--logits",
            path,
        ]
        if options.limit is not None:
            command += ["--limit", str(options.limit)]
        environment = {**os.environ, "OFFRAMP_ISA": isa, "OFFRAMP_CONV": conv}
        done = subprocess.run(
            command,
            env=environment,
            text=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            errors="replace",
            check=False,
        )
        progress("")
        if done.returncode != 0 or not path.is_file():
            said = (done.stderr.strip().splitlines() or ["nothing on stderr"])[-1]
            raise Stop(69, f"{isa} {conv}: offramp eval ended with {done.returncode}: {said}")
        found = numpy.fromfile(path, "<f4")
    if found.size != numpy.prod(shape):
        raise Stop(
            69,
            f"{isa} {conv}: wanted {shape[0]} x {shape[1]} x {shape[2]} logits, found {found.size}",
        )
    return found.reshape(shape)


# ---- the comparison ------------------------------------------------------------------------------


@dataclasses.dataclass
class Result:
    """One exit under one instruction set and algorithm."""

    difference: float  # largest |difference| / largest |logit|
    disagreements: int  # pictures whose top-1 differs
    unexcused: int  # those of them where PyTorch's margin exceeds the tolerance
    pytorch: float  # accuracy in percent
    engine: float

    @property
    def holds(self):
        return (
            self.difference <= LOGIT_TOLERANCE
            and self.unexcused == 0
            and abs(self.pytorch - self.engine) <= ACCURACY_TOLERANCE + 1e-9
        )


def compare(wanted, found, labels):
    """Result of logits [count, classes] of PyTorch and of the engine. NaN anywhere never holds."""
    scale = float(numpy.abs(wanted).max())
    second, first = numpy.sort(wanted, axis=1)[:, -2:].T
    differs = wanted.argmax(1) != found.argmax(1)
    error = float(numpy.abs(found.astype(numpy.float64) - wanted).max())
    return Result(
        difference=error / scale if scale > 0 else float("nan"),
        disagreements=int(differs.sum()),
        unexcused=int((differs & (first - second > LOGIT_TOLERANCE * scale)).sum()),
        pytorch=100 * float((wanted.argmax(1) == labels).mean()),
        engine=100 * float((found.argmax(1) == labels).mean()),
    )


def available_isas(program):
    """Names of the instruction sets that the engine can use here, slowest first."""
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    return said.stdout.partition("this machine:")[2].split()


def parse(arguments):
    parser = Parser(
        prog="compare_with_pytorch.py",
        description=__doc__,
    )
    root = pathlib.Path(__file__).resolve().parent.parent
    add = parser.add_argument
    add("model", metavar="MODEL", help="model file (.safetensors)")
    add("data", metavar="DATA", help="folder with pictures")
    add(
        "--offramp",
        metavar="PATH",
        default=root / "build/release/offramp",
        help="the engine's program (default build/release/offramp)",
    )
    add("--isa", default="all", help="all or the best that this CPU has, or names such as sse2,avx2")
    add("--conv", default="all", help="all, or names of auto,direct,winograd2,winograd4,winograd6,im2col")
    add("--limit", type=int, metavar="N", help="only the first N pictures")
    options = parser.parse_args(arguments)
    options.conv = CONVS if options.conv == "all" else options.conv.split(",")
    if options.limit is not None and options.limit < 1:
        parser.error(f"--limit: wanted at least 1, found {options.limit}")
    for path in (options.model, options.offramp):
        if not pathlib.Path(path).is_file():
            raise Stop(66, f"{path}: wanted a file, found none")
    known = available_isas(options.offramp)
    options.isa = {"all": known, "best": known[-1:]}.get(options.isa) or options.isa.split(",")
    return options


def run(arguments):
    options = parse(arguments)
    try:
        model = modelfile.read_model(options.model)
    except modelfile.ModelError as error:
        raise Stop(65, error) from None
    data = open_data(pathlib.Path(options.data), model.classes)
    count = min(len(data.labels), options.limit or len(data.labels))
    labels = data.labels[:count]
    start = time.monotonic()
    wanted = pytorch_logits(model, data, count)
    print(
        f"{model.name} ({model.hash()[:16]}), {count} pictures, PyTorch {torch.__version__} in "
        f"{time.monotonic() - start:.1f} s"
    )
    print(
        f"{'isa':8}{'conv':11}{'exit':10}{'difference':>12}{'top-1 differs':>15}"
        f"{'PyTorch %':>11}{'engine %':>10}"
    )
    holds = True
    for isa in options.isa:
        for conv in options.conv:
            found = engine_logits(options, isa, conv, wanted.shape)
            for number, exit in enumerate(model.exits):
                result = compare(wanted[:, number], found[:, number], labels)
                holds = holds and result.holds
                print(
                    f"{isa:8}{conv:11}{exit['name']:10}{result.difference:12.2e}"
                    f"{result.disagreements:15d}{result.pytorch:11.2f}{result.engine:10.2f}"
                    f"{'' if result.holds else '  VIOLATED'}",
                    flush=True,
                )
    print(
        f"{'holds' if holds else 'VIOLATED'}: differences at most {LOGIT_TOLERANCE:g}, top-1 equal "
        f"beyond that margin, accuracies within {ACCURACY_TOLERANCE} points"
    )
    return 0 if holds else 1


def main(arguments):
    try:
        return run(arguments)
    except Stop as error:
        print(f"compare_with_pytorch: {error}", file=sys.stderr)
        return error.code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
