"""What tests in Python set up around the program: drawn pictures, and keys for each tier."""

import functools
import math
import random
import subprocess

SIDE = 32


def drawn_picture(rng):
    """A gradient with blobs and noise, as CIFAR-10 stores it: three planes of 32 rows."""
    angle, noise = rng.uniform(0, 2 * math.pi), rng.choice((0, 4, 12, 40))
    dark, bright = [[rng.uniform(0, 255) for _ in range(3)] for _ in range(2)]
    blobs = [
        (
            rng.uniform(0, SIDE),
            rng.uniform(0, SIDE),
            rng.uniform(2, 10),
            [rng.uniform(-160, 160) for _ in range(3)],
        )
        for _ in range(rng.randrange(6))
    ]
    planes = bytearray()
    for channel in range(3):
        for y in range(SIDE):
            for x in range(SIDE):
                along = 0.5 + ((x - 16) * math.cos(angle) + (y - 16) * math.sin(angle)) / 46
                value = dark[channel] + (bright[channel] - dark[channel]) * along
                for cx, cy, radius, colour in blobs:
                    distance = ((x - cx) ** 2 + (y - cy) ** 2) / radius**2
                    if distance < 4:
                        value += colour[channel] * math.exp(-distance)
                value += noise * rng.uniform(-1, 1)
                planes.append(min(255, max(0, round(value))))
    return bytes(planes)


@functools.lru_cache
def drawn_data_set(count):
    rng = random.Random(20)
    return b"".join(bytes([i % 10]) + drawn_picture(rng) for i in range(count))


def draw_data_set(folder, count):
    """`count` pictures of CIFAR-10's form, always the same, under labels that mean nothing."""
    (folder / "test_batch.bin").write_bytes(drawn_data_set(count))


def make_keys(program, folder):
    """A folder of keys for each tier, as --keys wants them."""
    subprocess.run([program, "keygen", "--tiers", folder], check=True)
