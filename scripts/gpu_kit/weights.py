"""ResNet18's weights as safetensors files: half precision in the kit, float32
where it runs.

  weights.py pack WEIGHTS.pth FILE     writes FILE in half precision
  weights.py unpack FILE FULL          writes FULL in float32

FILE is compressed with xz. A safetensors file is 8 bytes of length (little
endian), that many bytes of JSON, then the tensors' bytes. Needs PyTorch only.
"""

import ctypes
import json
import lzma
import pathlib
import struct
import sys

import torch

TYPES = {"F32": torch.float32, "F16": torch.float16, "I64": torch.int64}
NAMES = {kind: name for name, kind in TYPES.items()}


def bytes_of(tensor):
    """Without NumPy, which need not be there."""
    flat = tensor.detach().cpu().contiguous()
    return ctypes.string_at(flat.data_ptr(), flat.numel() * flat.element_size())


def serialize(state):
    """Of a dictionary of tensors, the file's bytes."""
    header, parts, offset = {}, [], 0
    for name, tensor in state.items():
        data = bytes_of(tensor)
        header[name] = {"dtype": NAMES[tensor.dtype],
                        "shape": list(tensor.shape),
                        "data_offsets": [offset, offset + len(data)]}
        parts.append(data)
        offset += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # The data begin at a multiple of 8.
    return b"".join([struct.pack("<Q", len(text)), text, *parts])


def parse(content):
    """Of a file's bytes, a dictionary of tensors."""
    length, = struct.unpack("<Q", content[:8])
    header = json.loads(content[8:8 + length])
    header.pop("__metadata__", None)
    state = {}
    for name, entry in header.items():
        begin, end = (8 + length + o for o in entry["data_offsets"])
        kind = TYPES[entry["dtype"]]
        # frombuffer takes no empty buffer; a copy, since bytes are read-only.
        data = bytearray(content[begin:end])
        tensor = (torch.frombuffer(data, dtype=kind) if data
                  else torch.empty(0, dtype=kind))
        state[name] = tensor.reshape(entry["shape"])
    return state


def convert(state, kind):
    return {name: t.to(kind) if t.is_floating_point() else t
            for name, t in state.items()}


def load(path):
    """A state_dict from a .pth or .safetensors file, in float32."""
    path = pathlib.Path(path)
    if path.suffix == ".safetensors":
        return convert(parse(path.read_bytes()), torch.float32)
    return torch.load(path, map_location="cpu", weights_only=True)


def pack(source, target):
    state = convert(load(source), torch.float16)
    pathlib.Path(target).write_bytes(
        lzma.compress(serialize(state), preset=9 | lzma.PRESET_EXTREME))


def unpack(source, target):
    state = parse(lzma.decompress(pathlib.Path(source).read_bytes()))
    pathlib.Path(target).write_bytes(serialize(convert(state, torch.float32)))


def main():
    command, source, target = sys.argv[1:]
    {"pack": pack, "unpack": unpack}[command](source, target)


if __name__ == "__main__":
    main()
