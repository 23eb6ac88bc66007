#!/usr/bin/env python3
"""Makes the golden files of server/testdata: what Pillow, torchvision and torch
give for small pictures, saved tensors and a few training steps.

    python3 -m venv golden && golden/bin/pip install torch==2.14.1 \
        torchvision==0.29.1 safetensors
    golden/bin/python scripts/make_golden.py

The C++ tests compare with the files as committed. Run it again only to change
them: another Pillow encodes the same picture into other bytes.
All pictures are drawn here by formula; all weights come from Formula() below,
which the C++ tests repeat, so nothing big is stored.
"""

import json
import math
import pathlib
import shutil
import struct
import warnings
import zipfile
import zlib
from collections import OrderedDict

import numpy as np
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torchvision import transforms as T

TESTDATA = pathlib.Path(__file__).resolve().parent.parent / "server/testdata"


# ---------------------------------------------------------------- pictures

def Draw(width, height, channels=3, seed=1):
    """Waves, a disc, a bar and thin lines as uint8 [height, width, channels]."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    u, v = x / width, y / height
    planes = []
    for c in range(channels):
        p = seed * 0.7 + c * 1.9
        plane = 120 + 70 * np.sin(2 * math.pi * (u * (1 + c % 3) + v) + p)
        plane += 35 * np.cos(2 * math.pi * 3 * (u - v * (1 + c)) + 2 * p)
        disc = (u - 0.62) ** 2 + (v - 0.4) ** 2 < 0.045
        plane[disc] = 255 - plane[disc]
        plane[(v > 0.7) & (v < 0.82) & (u > 0.1) & (u < 0.75)] = 40 + 90 * c % 256
        plane[(x.astype(int) % 17 == 3) & (v < 0.25)] = 250 - 100 * c
        plane[(x.astype(int) + 2 * y.astype(int)) % 29 == 0] += 30
        planes.append(plane)
    return np.clip(np.rint(np.stack(planes, -1)), 0, 255).astype(np.uint8)


def DrawAlpha(width, height):
    """An alpha channel with opaque, half and fully transparent parts."""
    y, x = np.mgrid[0:height, 0:width]
    alpha = (255 * x // max(1, width - 1)).astype(np.uint8)
    alpha[y < height // 4] = 0
    alpha[y > 3 * height // 4] = 255
    return alpha


def Png16(path, samples):
    """Writes uint16 [height, width] or [height, width, 3] as a 16-bit PNG."""
    height, width = samples.shape[:2]
    colour_type = 0 if samples.ndim == 2 else 2

    def Chunk(kind, body):
        return (struct.pack(">I", len(body)) + kind + body +
                struct.pack(">I", zlib.crc32(kind + body)))

    rows = samples.astype(">u2").reshape(height, -1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" +
        Chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour_type,
                                   0, 0, 0)) +
        Chunk(b"IDAT", zlib.compress(raw, 9)) + Chunk(b"IEND", b""))


def MakeImages():
    folder = TESTDATA / "images"
    folder.mkdir()

    def Rgb(width, height, seed=1):
        return Image.fromarray(Draw(width, height, seed=seed))

    Rgb(333, 251, 1).save(folder / "landscape_420.jpg", quality=88, subsampling=2)
    Rgb(251, 333, 2).save(folder / "portrait_444.jpg", quality=85, subsampling=0)
    Rgb(301, 225, 3).save(folder / "progressive_422.jpg", quality=80,
                          subsampling=1, progressive=True, optimize=True)
    Rgb(97, 61, 4).save(folder / "small_420.jpg", quality=90, subsampling=2)
    Rgb(61, 97, 5).save(folder / "small_portrait.jpg", quality=75, subsampling=2)
    Rgb(5, 3, 6).save(folder / "tiny.jpg", quality=90, subsampling=2)
    Rgb(400, 31, 7).save(folder / "wide.jpg", quality=80, subsampling=2)
    Image.fromarray(Draw(203, 147, 1, 8)[..., 0]).save(
        folder / "grey.jpg", quality=85)
    Image.fromarray(Draw(151, 113, 4, 9), mode="CMYK").save(
        folder / "cmyk.jpg", quality=85)
    exif = Image.Exif()
    exif[0x0112] = 6  # Orientation: "rotate 90 degrees clockwise"; ignored.
    Rgb(163, 121, 10).save(folder / "exif_rotated.jpg", quality=85, exif=exif)

    Rgb(127, 93, 11).save(folder / "rgb.png", optimize=True)
    palette = Rgb(131, 101, 12).quantize(61)
    palette.save(folder / "palette.png", optimize=True, transparency=7)
    rgba = np.dstack([Draw(119, 87, 3, 13), DrawAlpha(119, 87)])
    Image.fromarray(rgba).save(folder / "rgba.png", optimize=True)
    la = np.dstack([Draw(111, 83, 1, 14), DrawAlpha(111, 83)])
    Image.fromarray(la).save(folder / "grey_alpha.png", optimize=True)
    Image.fromarray(Draw(103, 79, 1, 15)[..., 0]).save(
        folder / "grey.png", optimize=True)
    Image.fromarray(Draw(107, 71, 1, 16)[..., 0]).convert("1").save(
        folder / "one_bit.png", optimize=True)
    low = np.arange(73 * 101).reshape(73, 101) * 37 % 256
    # Pillow does not scale 16-bit grey, it clips at 255: so most of a usual
    # picture is white, and the right half, with small values, stays as it is.
    grey = Draw(101, 73, 1, 17)[..., 0].astype(np.uint16)
    grey[:, :50] = grey[:, :50] * 256 + low[:, :50]
    Png16(folder / "grey16.png", grey)
    low = np.arange(67 * 89 * 3).reshape(67, 89, 3) * 41 % 256
    Png16(folder / "rgb16.png", Draw(89, 67, 3, 18).astype(np.uint16) * 256 + low)

    Rgb(143, 109, 19).save(folder / "lossy.webp", quality=80)
    rgba = np.dstack([Draw(99, 75, 3, 20), DrawAlpha(99, 75)])
    Image.fromarray(rgba).save(folder / "lossless_alpha.webp", lossless=True,
                               exact=True)
    Rgb(83, 62, 21).save(folder / "rgb24.bmp")

    bad = TESTDATA / "bad"
    bad.mkdir()
    jpeg = (folder / "landscape_420.jpg").read_bytes()
    (bad / "truncated.jpg").write_bytes(jpeg[:len(jpeg) // 3])
    png = (folder / "rgb.png").read_bytes()
    (bad / "truncated.png").write_bytes(png[:len(png) // 2])
    (bad / "not_an_image.jpg").write_text("This is text, whatever its name.\n")
    (bad / "empty.jpg").write_bytes(b"")


def MakeImageGolden():
    """<name>.decoded.png: as Pillow decodes it. <name>.test.png: after
    torchvision's Resize(256) and CenterCrop(224)."""
    golden = TESTDATA / "golden"
    golden.mkdir()
    test_transform = T.Compose([T.Resize(256), T.CenterCrop(224)])
    for path in sorted((TESTDATA / "images").iterdir()):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Palette with transparency.
            with Image.open(path) as image:
                mode = image.mode
                rgb = image.convert("RGB")
        rgb.save(golden / f"{path.name}.decoded.png", optimize=True)
        test_transform(rgb).save(golden / f"{path.name}.test.png", optimize=True)
        print(f"{path.name}: {mode} {rgb.width}x{rgb.height},"
              f" {path.stat().st_size} bytes")


# ------------------------------------------------------------- state dicts

def SmallStateDict():
    generator = torch.Generator().manual_seed(3)

    def Rand(*shape):
        return torch.randn(*shape, generator=generator)

    shared = Rand(20)
    return OrderedDict([
        ("conv.weight", Rand(4, 3, 3, 3)),
        ("bn.weight", Rand(4)),
        ("bn.running_mean", Rand(4)),
        ("bn.num_batches_tracked", torch.tensor(7, dtype=torch.int64)),
        ("transposed", Rand(3, 5).t()),            # [5, 3] with strides [1, 5].
        ("channels_last", Rand(2, 3, 4, 4).to(memory_format=torch.channels_last)),
        ("first_of_shared", shared[:8].view(2, 4)),
        ("second_of_shared", shared[8:]),          # Storage offset 8.
        ("scalar", torch.tensor(-1.5)),
        ("empty", torch.empty(0, 3)),
        ("special", torch.tensor([float("inf"), float("-inf"), -0.0, 1e-40])),
    ])


def MakeStateDicts():
    folder = TESTDATA / "state_dict"
    folder.mkdir()
    state = SmallStateDict()
    torch.save(state, folder / "small.pth")
    torch.save(state, folder / "small_legacy.pth",
               _use_new_zipfile_serialization=False)
    torch.save(OrderedDict((name, torch.nn.Parameter(tensor))
                           for name, tensor in state.items()
                           if tensor.is_floating_point()),
               folder / "small_parameters.pth")
    save_file({name: tensor.contiguous().clone()
               for name, tensor in state.items()},
              folder / "small.safetensors")
    expected = {
        name: {
            "shape": list(tensor.shape),
            "dtype": str(tensor.dtype).removeprefix("torch."),
            # Row-major elements, little-endian.
            "values": tensor.contiguous().numpy().tobytes().hex(),
        }
        for name, tensor in state.items()
    }
    (folder / "small.json").write_text(json.dumps(expected, indent=1) + "\n")

    # A pickle that would run a command if anything executed it.
    command = b"touch code_in_a_pickle_was_run"
    pickle = (b"\x80\x02cos\nsystem\nX" + struct.pack("<I", len(command)) +
              command + b"\x85R.")
    with zipfile.ZipFile(folder / "malicious.pth", "w") as archive:
        for name, body in (("data.pkl", pickle), ("byteorder", b"little"),
                           ("version", b"3\n")):
            archive.writestr(zipfile.ZipInfo(f"malicious/{name}"), body)


# ---------------------------------------------------------------- resnet18

def Formula(t, count):
    """Elements 0..count-1 of tensor number t: doubles in [0, 1)."""
    mask = np.uint64(0xFFFFFFFF)
    i = np.arange(count, dtype=np.uint64)
    u = (i * np.uint64(2654435761) +
         np.uint64((t + 1) * 40503 * 65537 + 12345)) & mask
    u ^= u >> np.uint64(16)
    u = (u * np.uint64(0x45D9F3B)) & mask
    u ^= u >> np.uint64(16)
    return u.astype(np.float64) / 2.0**32


def FormulaValue(name, shape, x):
    """Spreads x in [0, 1) to what suits the tensor.

    Batch norm's weight and bias are small and mostly positive: with few values
    beside ReLU's kink, rounding alone does not send two correct implementations
    apart, and the recipe's step sizes train calmly.
    """
    if name == "fc.bias":
        return (2 * x - 1) * 0.1
    if name.endswith("running_var"):
        return 0.5 + x
    if name.endswith("running_mean"):
        return (2 * x - 1) * 0.2
    if name.endswith("bias"):
        return 0.05 + 0.2 * x
    if len(shape) == 1:  # Batch norm's weight.
        return 0.1 + 0.2 * x
    fan_in = math.prod(shape[1:])
    return (2 * x - 1) * math.sqrt(3) * math.sqrt(2 / fan_in)


def FormulaResNet18():
    net = torchvision.models.resnet18(num_classes=5)
    t = 0
    state = net.state_dict()
    for name, tensor in state.items():
        if name.endswith("num_batches_tracked"):
            tensor.zero_()
            continue
        x = Formula(t, tensor.numel())
        value = FormulaValue(name, tensor.shape, x).astype(np.float32)
        tensor.copy_(torch.from_numpy(value).view(tensor.shape))
        t += 1
    return net


def FormulaBatch():
    x = (2 * Formula(1000, 4 * 3 * 96 * 96) - 1) * 2
    images = torch.from_numpy(x.astype(np.float32)).view(4, 3, 96, 96)
    return images, torch.tensor([0, 3, 1, 4])


def ThreeSteps(weight_decay=0.001, memory_format=torch.contiguous_format,
               dtype=torch.float32):
    """The recipe's two groups: losses of three steps and the state after."""
    net = FormulaResNet18().to(memory_format=memory_format, dtype=dtype)
    images, labels = FormulaBatch()
    images = images.to(memory_format=memory_format, dtype=dtype)
    features = [p for n, p in net.named_parameters() if not n.startswith("fc.")]
    optimizer = torch.optim.SGD(
        [{"params": features}, {"params": net.fc.parameters(), "lr": 0.1}],
        lr=0.01, weight_decay=weight_decay)
    net.train()
    losses = []
    for _ in range(3):
        loss = torch.nn.functional.cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, net.state_dict()


def Summary(tensor):
    flat = tensor.contiguous().flatten()
    stride = max(1, flat.numel() // 64)
    return {
        "shape": list(tensor.shape),
        "sample_stride": stride,
        "values": flat[::stride][:64].tolist(),
        "sum_of_squares": flat.double().square().sum().item(),
    }


def Difference(a, b):
    return max((a[name].double() - b[name].double()).abs().max().item()
               for name in a)


def MakeResNet18():
    folder = TESTDATA / "resnet18"
    folder.mkdir()
    images, labels = FormulaBatch()
    with torch.no_grad():
        logits = FormulaResNet18().eval()(images)
        exact = FormulaResNet18().double().eval()(images.double())
    (folder / "forward.json").write_text(
        json.dumps({"logits": logits.tolist()}, indent=1) + "\n")
    print("logits", logits.tolist())
    print("logits: largest difference to double precision",
          (logits - exact).abs().max().item())

    # Decay of 0.001 moves weights by less than the tests' tolerance; 1 shows
    # whether it reaches every parameter.
    for name, weight_decay in (("sgd", 0.001), ("sgd_decay", 1.0)):
        losses, state = ThreeSteps(weight_decay)
        print(name, "losses", losses)
        for label, options in (
                ("again", {}),
                ("channels-last", {"memory_format": torch.channels_last}),
                ("double precision", {"dtype": torch.float64})):
            other = ThreeSteps(weight_decay, **options)[1]
            print(f"  {label}: largest difference", Difference(state, other))
        (folder / f"{name}.json").write_text(json.dumps({
            "weight_decay": weight_decay,
            "labels": labels.tolist(),
            "losses": losses,
            "state_dict": {key: Summary(value) for key, value in state.items()},
        }, separators=(",", ":")) + "\n")


def main():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for folder in ("images", "bad", "golden", "state_dict", "resnet18"):
        shutil.rmtree(TESTDATA / folder, ignore_errors=True)
    TESTDATA.mkdir(exist_ok=True)
    MakeImages()
    MakeImageGolden()
    MakeStateDicts()
    MakeResNet18()


if __name__ == "__main__":
    main()
