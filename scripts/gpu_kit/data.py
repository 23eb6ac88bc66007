"""The photos that the parts use, below the work folder."""

import os
import pathlib
import shutil
import subprocess
import sys
import tarfile

from kit import HERE, Failed, last_line

KINDS = {".jpg", ".jpeg", ".png"}


def photos_in(folder):
    return sorted(path for path in folder.rglob("*")
                  if path.suffix.lower() in KINDS)


def test_folder(data):
    for name in ("test", "val"):
        if (data / name).is_dir():
            return data / name
    raise Failed(f"no folder test/ or val/ in {data}")


def _draw(folder):
    """Pictures for a kit without photos, as JPEG: the programs of the kit
    decode no other kind."""
    from PIL import Image
    subprocess.run([sys.executable, str(HERE / "draw_pictures.py"), str(folder),
                    "--train", "32", "--test", "12", "--size", "160"],
                   check=True, timeout=120)
    for path in folder.rglob("*.png"):
        with Image.open(path) as picture:
            picture.convert("RGB").save(path.with_suffix(".jpg"), quality=92)
        path.unlink()


def _link(path, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    os.link(path, target)


def _few(source, target, train, test):
    """The first photos of each class; a CPU takes long over many."""
    for split, count in (("train", train), (test_folder(source).name, test)):
        for folder in sorted((source / split).iterdir()):
            for path in photos_in(folder)[:count]:
                _link(path, target / split / folder.name / path.name)


def prepare(kit):
    """Sets kit.data and kit.weights; returns in words what they are."""
    everything = kit.work / "all_photos"
    if (HERE / "data.tar").is_file():
        with tarfile.open(HERE / "data.tar") as tar:
            tar.extractall(everything)
        kind = "photos"
    else:
        _draw(everything)
        kind = "drawn pictures"
    kit.data = everything
    if not kit.on_gpu:
        kit.data = kit.work / "few_photos"
        _few(everything, kit.data, train=8, test=6)
    packed = HERE / "weights.safetensors.xz"
    if packed.is_file():
        kit.weights = kit.work / "weights.safetensors"
        done = kit.run_python("weights.py", "unpack", packed, kit.weights)
        if done.returncode != 0:
            raise Failed(f"the weights: {last_line(done.stderr)}")
    train = len(photos_in(kit.data / "train"))
    test = len(photos_in(test_folder(kit.data)))
    weights = "ImageNet weights" if kit.weights else "no weights: from scratch"
    return f"{train} training and {test} test {kind}, {weights}"


def multiplied(kit, train, test):
    """A larger set: the same photos under other names. Every one is read and
    decoded as if it were another."""
    folder = kit.work / f"photos_{train}_{test}"
    if folder.exists():
        return folder
    tests = test_folder(kit.data)
    for split, count in ((kit.data / "train", train), (tests, test)):
        photos = photos_in(split)
        for i in range(count):
            path = photos[i % len(photos)]
            _link(path, folder / split.name / path.parent.name
                  / f"{i:06d}{path.suffix}")
    return folder


def copy_state(kit, source, name):
    """A copy of a state folder, whose server is stopped."""
    target = kit.work / name
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    return target


def published(state, version):
    return pathlib.Path(state) / f"models/photos/{version}/weights.safetensors"
