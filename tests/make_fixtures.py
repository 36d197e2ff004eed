#!/usr/bin/env python3
"""Makes tests/fixtures/: tiny pictures of every kind the engine reads or refuses, and what Pillow and
torchvision make of them. The tests compare the engine's own decoding and resizing with these files.

Needs Pillow, NumPy, PyTorch and torchvision. The outcome is under version control; run this again only
to add a case.
"""

import pathlib

import numpy as np
import torch
from PIL import Image
from torchvision import transforms

FIXTURES = pathlib.Path(__file__).resolve().parent / "fixtures"

# (width, height) before and after.
RESIZES = [
    ((37, 29), (16, 16)),
    ((5, 7), (13, 11)),
    ((16, 16), (16, 9)),
    ((16, 16), (31, 16)),
    ((64, 48), (7, 5)),
    ((1, 1), (4, 3)),
    ((50, 3), (3, 20)),
]

# Picture, shorter side, crop (height, width).
SHORTER = [((37, 29), 20, (15, 18)), ((21, 40), 16, (16, 16)), ((19, 19), 32, (27, 30))]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def random_pixels(width: int, height: int, seed: int = 1) -> np.ndarray:
    """The picture that random_picture() of tests/test_files.h makes."""
    values = []
    for _ in range(width * height * 3):
        seed = (seed * 1664525 + 1013904223) % 2**32
        values.append(seed >> 24)
    return np.array(values, np.uint8).reshape(height, width, 3)


def gradient() -> Image.Image:
    """Smooth, so that lossy compression changes it little."""
    y, x = np.mgrid[0:20, 0:27]
    planes = [40 + 6 * x, 30 + 9 * y, 250 - 3 * x - 5 * y]
    return Image.fromarray(np.stack(planes, axis=2).astype(np.uint8))


def write_pictures() -> None:
    base = gradient()
    alpha = base.copy()
    alpha.putalpha(Image.linear_gradient("L").resize(base.size))
    good = {
        "baseline.jpg": (base, {"quality": 92, "subsampling": 0}),
        "subsampled.jpg": (base, {"quality": 92, "subsampling": 2}),
        "progressive.jpg": (base, {"quality": 92, "progressive": True}),
        "grey.jpg": (base.convert("L"), {"quality": 92}),
        "rgb.png": (base, {}),
        "rgba.png": (alpha, {}),
        "grey.png": (base.convert("L"), {}),
        "grey_alpha.png": (alpha.convert("LA"), {}),
        "palette.png": (base.quantize(16), {}),
        "one_bit.png": (base.convert("1"), {}),
        "rgb.bmp": (base, {}),
        "palette.bmp": (base.quantize(64), {}),
        "rgba.bmp": (alpha, {}),
    }
    for name, (picture, options) in good.items():
        picture.save(FIXTURES / name, **options)
        with Image.open(FIXTURES / name) as saved:
            rgb = np.asarray(saved.convert("RGB"))
        (FIXTURES / f"{name}.rgb").write_bytes(rgb.tobytes())

    deep = np.asarray(base.convert("L")).astype(np.uint16) * 257
    Image.fromarray(deep).save(FIXTURES / "bad_16_bit.png")
    base.convert("CMYK").save(FIXTURES / "bad_cmyk.jpg")
    base.save(FIXTURES / "bad_gif.png", format="GIF")


def write_resizes() -> None:
    for (width, height), size in RESIZES:
        resized = Image.fromarray(random_pixels(width, height)).resize(size, Image.BILINEAR)
        name = f"resize_{width}x{height}_to_{size[0]}x{size[1]}.rgb"
        (FIXTURES / name).write_bytes(np.asarray(resized).tobytes())


def write_preprocessed() -> None:
    for (width, height), shorter, crop in SHORTER:
        prepare = transforms.Compose([
            transforms.Resize(shorter),
            transforms.CenterCrop(crop),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ])
        tensor = prepare(Image.fromarray(random_pixels(width, height)))
        name = f"shorter_{width}x{height}_to_{shorter}_crop_{crop[1]}x{crop[0]}.f32"
        values = tensor.permute(1, 2, 0).contiguous().to(torch.float32).numpy()
        (FIXTURES / name).write_bytes(values.tobytes())


def main() -> None:
    FIXTURES.mkdir(exist_ok=True)
    write_pictures()
    write_resizes()
    write_preprocessed()


if __name__ == "__main__":
    main()
