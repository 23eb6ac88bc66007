#!/usr/bin/env python3
"""Packs a selection of a data set's photos into one tar, up to a size.

  photos.py DATASET OUT.tar --bytes N [--side 500]

Of each split (train, test or val) all classes get as many photos, drawn at
random, the same each time. They are named train/<class>/0001.jpg and so on.
Photos with a longer side than --side are made smaller: that is about what
such sets hold, and more of them fit. Needs Pillow.
"""

import argparse
import io
import pathlib
import random
import re
import tarfile

from PIL import Image

KINDS = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
TRAIN_SHARE = 0.65  # Of the bytes.
HEADER = 1024       # At most, of a file in a tar: header and padding.


def encoded(path, side):
    """The photo as JPEG, or None where it cannot be read."""
    try:
        with Image.open(path) as image:
            photo = image.convert("RGB")
    except OSError:
        return None
    photo.thumbnail((side, side), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    photo.save(out, "JPEG", quality=88, subsampling="4:2:0")
    return out.getvalue()


def safe(name):
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)


def photos_of(split):
    """By class, the paths in an order of chance."""
    classes = {}
    for folder in sorted(p for p in split.iterdir() if p.is_dir()):
        paths = sorted(p for p in folder.rglob("*")
                       if p.suffix.lower() in KINDS)
        random.Random(f"{split.name} {folder.name}").shuffle(paths)
        classes[safe(folder.name)] = paths
    return classes


def add(tar, name, content):
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


def pack(tar, split, room, side):
    """Adds rounds of one photo a class while they fit; returns how many."""
    classes = photos_of(split)
    rounds = 0
    for paths in zip(*classes.values()):
        contents = [encoded(path, side) for path in paths]
        if None in contents:
            continue
        size = sum(len(content) + HEADER for content in contents)
        if size > room:
            break
        room -= size
        rounds += 1
        for name, content in zip(classes, contents):
            add(tar, f"{split.name}/{name}/{rounds:04d}.jpg", content)
    return rounds * len(classes)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("dataset", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--bytes", type=int, required=True)
    parser.add_argument("--side", type=int, default=500)
    args = parser.parse_args()
    splits = [args.dataset / name for name in ("test", "val")]
    test = next((s for s in splits if s.is_dir()), None)
    if test is None:
        parser.error(f"no folder test/ or val/ in {args.dataset}")
    with tarfile.open(args.out, "w") as tar:
        train = pack(tar, args.dataset / "train",
                     TRAIN_SHARE * args.bytes, args.side)
        tested = pack(tar, test, (1 - TRAIN_SHARE) * args.bytes - 20_000,
                      args.side)
    if not train or not tested:
        parser.error(f"{args.bytes} bytes are too few for any photo")
    print(f"{train} training and {tested} test photos, "
          f"{args.out.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
