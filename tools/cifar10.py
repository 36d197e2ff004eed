"""CIFAR-10's binary layout as numpy arrays, the fixed held-out split, and augmentation on tensors.

A file is a row of records of 3,073 bytes: one label, then 1,024 red, 1,024 green and 1,024 blue
pixels, row by row.
"""

import pathlib

import numpy as np
import torch
from torch.nn import functional

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
TRAIN_FILES = [f"data_batch_{i}.bin" for i in range(1, 6)]
TEST_FILE = "test_batch.bin"
RECORD_BYTES = 1 + 3 * 32 * 32
CROP_PADDING = 4


class MissingData(Exception):
    """A folder or file that is not there or may not be read."""


class BadData(Exception):
    """A file that is not CIFAR-10."""


def locate(folder):
    """The folder that holds all six files: `folder` or `folder`/cifar-10-batches-bin. Checks that
    they are there and their sizes, reads nothing."""
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise MissingData(f"{folder}: wanted a folder with CIFAR-10's binary files, found none")
    inner = folder / "cifar-10-batches-bin"
    root = inner if inner.is_dir() else folder
    for name in (*TRAIN_FILES, TEST_FILE):
        path = root / name
        if not path.is_file():
            raise MissingData(
                f"{path}: wanted a file of CIFAR-10's binary layout, found none "
                "(tools/get_cifar10.sh fetches them)"
            )
        size = path.stat().st_size
        if size == 0 or size % RECORD_BYTES != 0:
            raise BadData(f"{path}: wanted a multiple of {RECORD_BYTES} bytes, found {size}")
    return root


def read(path):
    """(pictures uint8 [N,3,32,32], labels int64 [N]) of one file."""
    try:
        data = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise MissingData(f"{path}: cannot be read: {error.strerror or error}") from error
    if data.size == 0 or data.size % RECORD_BYTES != 0:
        raise BadData(f"{path}: wanted a multiple of {RECORD_BYTES} bytes, found {data.size}")
    records = data.reshape(-1, RECORD_BYTES)
    labels = records[:, 0].astype(np.int64)
    if labels.max() >= len(CLASSES):
        raise BadData(
            f"{path}: wanted labels 0 to {len(CLASSES) - 1}, "
            f"found {labels.max()} in record {labels.argmax()}"
        )
    return records[:, 1:].reshape(-1, 3, 32, 32).copy(), labels


def read_train(root):
    """All training pictures, in the order of data_batch_1..5."""
    parts = [read(root / name) for name in TRAIN_FILES]
    return np.concatenate([pictures for pictures, _ in parts]), np.concatenate(
        [labels for _, labels in parts]
    )


def split(total, holdout):
    """(train, held-out) indices into the training pictures. Depends on nothing but its arguments:
    RandomState's stream is frozen, so every run keeps the same pictures out of training."""
    if not 0 < holdout < total:
        raise BadData(f"held-out pictures: wanted between 1 and {total - 1}, found {holdout}")
    order = np.random.RandomState(10).permutation(total)
    return np.sort(order[holdout:]), order[:holdout]


def statistics(pictures):
    """(mean, std) per channel of uint8 pictures scaled to 0..1, float32 [3]. Counts, then float64:
    the same on every machine."""
    values = np.arange(256, dtype=np.float64) / 255
    counts = [np.bincount(pictures[:, channel].reshape(-1), minlength=256) for channel in range(3)]
    mean = np.array([(c * values).sum() / c.sum() for c in counts])
    variance = np.array([(c * (values - m) ** 2).sum() / c.sum() for c, m in zip(counts, mean)])
    return torch.from_numpy(mean).float(), torch.from_numpy(np.sqrt(variance)).float()


def normalise(pictures, mean, std):
    """uint8 [N,3,32,32] -> float32, on the device of `pictures`."""
    shape = (1, 3, 1, 1)
    return (pictures.float() / 255 - mean.to(pictures.device).view(shape)) / std.to(
        pictures.device
    ).view(shape)


def augment(batch, generator):
    """Random flip and random crop after padding by four zeros, each picture for itself. Random
    numbers come from a generator on the CPU: the same stream whatever the device. The result has
    its channels last in memory."""
    count, _, height, width = batch.shape
    device = batch.device
    flip = torch.rand(count, generator=generator) < 0.5
    shift = torch.randint(0, 2 * CROP_PADDING + 1, (2, count, 1), generator=generator)
    rows = (shift[0] + torch.arange(height)).to(device)
    columns = shift[1] + torch.arange(width)
    columns = torch.where(flip[:, None], columns.flip(1), columns).to(device)
    padded = functional.pad(batch, (CROP_PADDING,) * 4)
    picture = torch.arange(count, device=device)[:, None, None]
    # Index arrays beside a slice come first in the result: [N, H, W, C], in memory too.
    return padded[picture, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
