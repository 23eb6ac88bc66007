#!/usr/bin/env python3
"""Makes the photos that servers are measured with: JPEGs of 500x375 pixels,
quality 90, 4:2:0, of some 50 KB, as cameras and web sites have them.

With --source they are photos of that folder, cropped and resized; without, they
are drawn: noise of all scales, the larger the stronger, as in nature. The same
for the same --seed. Needs Pillow and NumPy.
"""

import argparse
import pathlib
import random

import numpy
from PIL import Image, ImageOps

SIZE = (500, 375)
KINDS = {".jpg", ".jpeg", ".png", ".webp"}


def drawn(rng):
    """Octaves of noise, each of half the scale and less contrast."""
    width, height = SIZE
    pixels = numpy.full((height, width, 3), 128.0)
    grey_share = rng.uniform(0.5, 0.9)  # Colours go along with brightness.
    cell, contrast = 128, rng.uniform(40, 70)
    while cell >= 1:
        shape = (height // cell + 2, width // cell + 2)
        grey = rng.normal(0, 1, (*shape, 1))
        colour = rng.normal(0, 1, (*shape, 3))
        layer = grey_share * grey + (1 - grey_share) * colour
        channels = [
            numpy.asarray(
                Image.fromarray(layer[:, :, c].astype(numpy.float32)).resize(
                    SIZE, Image.Resampling.BICUBIC))
            for c in range(3)]
        pixels += contrast * numpy.stack(channels, axis=2)
        cell //= 2
        contrast *= 0.64
    return Image.fromarray(pixels.clip(0, 255).astype(numpy.uint8))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=pathlib.Path, metavar="DIR")
    parser.add_argument("--count", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--source", type=pathlib.Path,
                        help="folder of photos to take instead of drawing")
    args = parser.parse_args()
    sources = []
    if args.source:
        sources = sorted(path for path in args.source.rglob("*")
                         if path.suffix.lower() in KINDS)
        if not sources:
            parser.error(f"no photos in {args.source}")
        random.Random(args.seed).shuffle(sources)
    args.folder.mkdir(parents=True, exist_ok=True)
    total = 0
    for i in range(args.count):
        if sources:
            picture = ImageOps.fit(
                Image.open(sources[i % len(sources)]).convert("RGB"), SIZE)
        else:
            picture = drawn(numpy.random.default_rng([args.seed, i]))
        path = args.folder / f"{i:04d}.jpg"
        picture.save(path, quality=90, subsampling="4:2:0")
        total += path.stat().st_size
    print(f"{args.count} photos of {SIZE[0]}x{SIZE[1]}, "
          f"{total / args.count / 1000:.0f} KB on average")


if __name__ == "__main__":
    main()
