"""A small painter's kit over Pillow for make_samples.py: smooth shapes with light, shade and grain.

Coordinates are in hundredths of the picture's height, whatever its size. All drawing is done four
times as large and reduced at the end, which is what smooths the edges.
"""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SUPERSAMPLING = 4


class Canvas:
    """A picture of width x height pixels; `seed` decides its grain."""

    def __init__(self, width, height, seed):
        self.size = (width, height)
        self.full = (width * SUPERSAMPLING, height * SUPERSAMPLING)
        self.unit = self.full[1] / 100
        self.right = 100 * width / height
        self.random = np.random.RandomState(seed)
        self.image = Image.new("RGB", self.full)

    def paint(self, mask, top, bottom, box=None):
        """Fills where the mask is white, from the colour `top` down to `bottom` over the mask."""
        box = box or mask.getbbox() or (0, 0, *self.full)
        rows = np.clip((np.arange(self.full[1]) - box[1]) / max(1, box[3] - box[1]), 0, 1)
        colours = np.outer(1 - rows, top) + np.outer(rows, bottom)
        pixels = np.repeat(colours[:, None], self.full[0], axis=1)
        self.image.paste(Image.fromarray(pixels.round().astype(np.uint8)), (0, 0), mask)

    def sky(self, top, bottom, begin=0, end=100):
        """A gradient over the whole width, between two heights."""
        mask = Image.new("L", self.full)
        box = (0, round(begin * self.unit), self.full[0], round(end * self.unit))
        mask.paste(255, box)
        self.paint(mask, top, bottom, box)

    def grain(self, strength, cell, begin=0, end=100, stretch=1):
        """Adds smooth light and dark patches about `cell` high, `stretch` times as wide."""
        top, low = round(begin * self.unit), round(end * self.unit)
        shape = (max(2, round((end - begin) / cell)), max(2, round(self.right / cell / stretch)))
        field = Image.fromarray(self.random.randn(*shape).astype(np.float32))
        field = np.asarray(field.resize((self.full[0], low - top), Image.BICUBIC))
        pixels = np.asarray(self.image).astype(np.float32)
        pixels[top:low] += strength * field[:, :, None]
        self.image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))

    def soften(self, radius):
        """Blurs what is there: things far away, behind what is drawn next."""
        self.image = self.image.filter(ImageFilter.GaussianBlur(radius * self.unit))

    def shape(self, points, top, bottom=None, soft=0.0):
        """A polygon with straight edges."""
        self._fill(points, top, bottom, soft)

    def blob(self, points, top, bottom=None, soft=0.0):
        """A closed smooth curve through the points."""
        self._fill(catmull_rom(points), top, bottom, soft)

    def disc(self, x, y, rx, ry, top, bottom=None, soft=0.0):
        angles = np.linspace(0, 2 * np.pi, 72, endpoint=False)
        self._fill(
            np.stack([x + rx * np.cos(angles), y + ry * np.sin(angles)], 1), top, bottom, soft
        )

    def stroke(self, points, width, colour, end_width=None):
        """A smooth open line that may grow thinner towards its end."""
        # A row of discs: close enough together that the thinnest of them touch.
        lengths = np.hypot(*np.diff(np.asarray(points, dtype=float), axis=0).T)
        steps = int(np.ceil(4 * lengths.max() / min(width, end_width or width)))
        path = catmull_rom(points, closed=False, steps=steps)
        radii = np.linspace(width, end_width or width, len(path)) / 2
        mask = Image.new("L", self.full)
        pencil = ImageDraw.Draw(mask)
        for (x, y), radius in zip(path, radii):
            corners = (x - radius, y - radius, x + radius, y + radius)
            pencil.ellipse([float(corner) * self.unit for corner in corners], fill=255)
        self.image.paste(colour, (0, 0), mask)

    def finish(self, noise=4.0, blur=0.35):
        """The picture in its size, slightly out of focus and with a camera's noise."""
        image = self.image.resize(self.size, Image.BOX).filter(ImageFilter.GaussianBlur(blur))
        pixels = np.asarray(image).astype(np.float32)
        pixels += noise * self.random.randn(*pixels.shape[:2], 1).astype(np.float32)
        return Image.fromarray(np.clip(pixels, 0, 255).round().astype(np.uint8))

    def _fill(self, points, top, bottom, soft):
        mask = Image.new("L", self.full)
        corners = [(float(x) * self.unit, float(y) * self.unit) for x, y in points]
        ImageDraw.Draw(mask).polygon(corners, fill=255)
        box = mask.getbbox()
        if soft:
            mask = mask.filter(ImageFilter.GaussianBlur(soft * self.unit))
        if box:
            self.paint(mask, top, top if bottom is None else bottom, box)


def catmull_rom(points, closed=True, steps=10):
    """Points on the smooth curve through `points`."""
    points = np.asarray(points, dtype=float)
    count = len(points)
    t = np.linspace(0, 1, steps, endpoint=False)[:, None]
    pieces = []
    for i in range(count if closed else count - 1):
        index = np.arange(i - 1, i + 3)
        p = points[index % count if closed else np.clip(index, 0, count - 1)]
        pieces.append(
            0.5
            * (
                2 * p[1]
                + (p[2] - p[0]) * t
                + (2 * p[0] - 5 * p[1] + 4 * p[2] - p[3]) * t**2
                + (3 * p[1] - p[0] - 3 * p[2] + p[3]) * t**3
            )
        )
    return np.concatenate(pieces)
