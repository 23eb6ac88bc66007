#!/usr/bin/env python3
"""Draws a small image-folder data set: DIR/train/<class>/ and DIR/test/<class>/.

Three classes that a small training from scratch can tell apart: each has its
own shape, painted in shades of its own colour. Places, sizes, background and
noise are random, and the same for the same --seed. Needs only Python.
"""

import argparse
import pathlib
import random
import struct
import zlib


def write_png(path, size, rgb):
    """Writes size x size pixels, 3 bytes each, as an 8-bit PNG."""

    def chunk(kind, body):
        return (struct.pack(">I", len(body)) + kind + body
                + struct.pack(">I", zlib.crc32(kind + body)))

    step = 3 * size
    rows = b"".join(b"\0" + rgb[i:i + step] for i in range(0, len(rgb), step))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b""))


class Picture:
    """Rows of colours that shapes are painted on, span by span."""

    MAX_LEVEL = 223  # Leaves room for the noise, 0..31.

    def __init__(self, size, rng, hue):
        """hue: which of red, green and blue is strong in the shapes."""
        self.size, self.rng = size, rng
        top, bottom = self.grey(), self.grey()
        self.rows = []
        for y in range(size):
            t = y / size
            level = bytes(int(a + (b - a) * t) for a, b in zip(top, bottom))
            self.rows.append(bytearray(level * size))
        self.ink = [rng.randint(150, self.MAX_LEVEL) if c == hue
                    else rng.randint(0, 90) for c in range(3)]

    def grey(self):
        level = self.rng.randint(20, 200)
        return [level + self.rng.randint(-20, 20) for _ in range(3)]

    def span(self, y, x0, x1):
        """Paints row y from x0 up to, not including, x1."""
        y, x0, x1 = int(y), max(0, int(x0)), min(self.size, int(x1))
        if 0 <= y < self.size and x0 < x1:
            self.rows[y][3 * x0:3 * x1] = bytes(self.ink) * (x1 - x0)

    def pixels(self):
        """All pixels, with noise: added to all bytes at once, as one number."""
        plain = b"".join(self.rows)
        mask = int.from_bytes(b"\x1f" * len(plain), "big")
        noise = self.rng.getrandbits(8 * len(plain)) & mask
        return (int.from_bytes(plain, "big") + noise).to_bytes(len(plain), "big")


def discs(picture, rng):
    for _ in range(rng.randint(4, 7)):
        radius = picture.size * rng.uniform(0.08, 0.16)
        cx, cy = (rng.uniform(0.1, 0.9) * picture.size for _ in range(2))
        for y in range(int(cy - radius), int(cy + radius) + 1):
            half = max(0.0, radius ** 2 - (y - cy) ** 2) ** 0.5
            picture.span(y, cx - half, cx + half)


def stripes(picture, rng):
    period = picture.size * rng.uniform(0.12, 0.25)
    slope, start = rng.uniform(-1.5, 1.5), rng.uniform(0, period)
    for y in range(picture.size):
        x = (start + slope * y) % period - period
        while x < picture.size:
            picture.span(y, x, x + period / 2)
            x += period


def crosses(picture, rng):
    for _ in range(rng.randint(4, 7)):
        arm = picture.size * rng.uniform(0.1, 0.18)
        thick = arm * rng.uniform(0.2, 0.35)
        cx, cy = (rng.uniform(0.1, 0.9) * picture.size for _ in range(2))
        for y in range(int(cy - arm), int(cy + arm) + 1):
            half = arm if abs(y - cy) < thick else thick
            picture.span(y, cx - half, cx + half)


CLASSES = {"crosses": crosses, "discs": discs, "stripes": stripes}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=pathlib.Path, metavar="DIR")
    parser.add_argument("--train", type=int, default=40, help="a class")
    parser.add_argument("--test", type=int, default=10, help="a class")
    parser.add_argument("--size", type=int, default=96, help="pixels a side")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for split, count in (("train", args.train), ("test", args.test)):
        for hue, (name, paint) in enumerate(CLASSES.items()):
            folder = args.folder / split / name
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                rng = random.Random(f"{args.seed} {split} {name} {i}")
                picture = Picture(args.size, rng, hue)
                paint(picture, rng)
                write_png(folder / f"{i:03d}.png", args.size, picture.pixels())


if __name__ == "__main__":
    main()
