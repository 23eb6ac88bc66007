#!/usr/bin/env python3
"""Checks who includes whom: fails, with file:line, where a room of the house
includes what it must not. ctest runs it as `layering`.

    layering_test.py [ROOT]    first tests itself, then checks ROOT
                               (default: the repository)
"""

import pathlib
import re
import sys
import tempfile

# A room may include headers of these places, besides proto and libraries.
# Patterns are beginnings of paths. Tests, benchmarks and fuzzers
# may look anywhere.
ROOMS = {
    "common/": ["common/"],
    "client/": ["client/", "common/"],
    "server/state/": ["server/state/", "common/"],
    "server/jobs/": ["server/jobs/", "server/state/", "common/"],
    "server/datasets/": ["server/datasets/", "server/data/image_folder",
                         "server/state/", "common/"],
    "server/data/": ["server/data/", "common/"],
    "server/model/": ["server/model/", "server/state/", "common/"],
    "server/model/pixel_normalizer": ["server/model/", "server/data/normalize"],
    "server/training/": ["server/training/", "server/data/", "server/model/",
                         "server/jobs/job.h", "common/"],
    "server/inference/": ["server/inference/", "common/"],
    "server/inference/preprocess": ["server/inference/", "server/data/",
                                    "common/"],
    "server/inference/forward_plan": ["server/inference/",
                                      "server/data/normalize", "common/"],
    **dict.fromkeys(
        ["server/inference/predictor", "server/inference/cuda_",
         "server/inference/fold_resnet18"],
        ["server/inference/", "server/data/", "server/model/", "common/"]),
    "server/metrics/": ["server/metrics/", "common/"],
    "server/service/": ["server/service/", "server/jobs/",
                        "server/inference/batcher",
                        "server/inference/classifier",
                        "server/inference/model_cache",
                        "server/inference/servable",
                        "server/model/registry", "server/datasets/",
                        "common/"],
}

# A library may be included in these places only: each is slow to compile, or
# would tie a room to it.
CAGES = {
    "LibTorch": (
        ["torch/", "ATen/", "c10/", "caffe2/"],
        ["server/model/", "server/training/", "server/inference/predictor",
         "server/inference/cuda_", "server/inference/fold_resnet18",
         "server/torch_pch", "server/trainer_main"]),
    "OpenCV": (["opencv2/"], ["server/data/"]),
    "libjpeg": (["jpeglib.h", "jerror.h"], ["server/data/decode_jpeg"]),
    # Another version's headers lie among LibTorch's.
    "oneDNN": (["dnnl"], ["server/inference/onednn"]),
    "SQLite": (["sqlite3.h"], ["server/state/"]),
    "libarchive": (["archive"], ["server/datasets/", "client/"]),
    "zlib": (["zlib.h"], ["server/datasets/"]),
    "prometheus-cpp": (["prometheus/"], ["server/metrics/"]),
    "gRPC": (
        ["grpcpp/", "grpc/"],
        ["server/service/", "server/library_log", "server/server.", "server/rooms.",
         "server/main.", "client/",
         "server/testing/server_process", "common/grpc_status",
         "common/request_parser"]),
}
# Nor may LibTorch come here through another header. Tests are no exception.
NEVER_REACH_TORCH = ["server/service/", "server/jobs/", "server/state/",
                     "server/datasets/", "server/metrics/", "client/",
                     "common/"]

INCLUDE = re.compile(r'^\s*#\s*include\s*["<]([^">]+)[">]')
OWN = ("server/", "client/", "common/")


def starts(path, beginnings):
    return any(path.startswith(beginning) for beginning in beginnings)


def read_includes(root):
    """{path: [(line, included path)]} of all our sources."""
    return {
        str(path.relative_to(root)): [
            (number, match.group(1))
            for number, line in enumerate(
                path.read_text(encoding="utf-8").splitlines(), 1)
            if (match := INCLUDE.match(line))]
        for folder in OWN for path in sorted((root / folder).rglob("*"))
        if path.suffix in (".cc", ".h")
    }


def reaches_torch(path, includes, seen):
    """Whether our header `path` includes LibTorch, itself or through others."""
    if path in seen:
        return False
    seen.add(path)
    return any(starts(to, CAGES["LibTorch"][0])
               or reaches_torch(to, includes, seen)
               for _, to in includes.get(path, []))


def faults(path, to, includes):
    """What is wrong with `path` including `to`: a list of sentences."""
    is_test = re.search(r"_(test|benchmark|fuzzer)\.cc$|/testing/", path)
    found = []
    rooms = [room for room in ROOMS if path.startswith(room)]
    if rooms and to.startswith(OWN) and not is_test:
        room = max(rooms, key=len)  # The most particular one.
        if not starts(to, ROOMS[room]):
            found.append(f"{room} may not include {to}")
    for library, (headers, places) in CAGES.items():
        if starts(to, headers) and not starts(path, places) and not is_test:
            found.append(f"{library} is not for {path}")
    if starts(path, NEVER_REACH_TORCH) and not found and (
            starts(to, CAGES["LibTorch"][0])
            or reaches_torch(to, includes, set())):
        found.append(f"LibTorch gets into {path} with {to}")
    return found


def check(root):
    includes = read_includes(root)
    return [f"{path}:{line}: {fault}"
            for path, lines in includes.items() for line, to in lines
            for fault in faults(path, to, includes)]


def self_test():
    """Good and bad includes in a house of a few files."""
    house = {
        "server/model/weights.h": "torch/torch.h",
        "server/model/registry.h": "server/model/weights.h",
        "server/inference/predictor.cc": "server/model/weights.h",  # Good.
        "server/service/face.cc": "server/jobs/job_store.h",        # Good.
        "server/data/loader_test.cc": "server/model/weights.h",     # Good.
        "client/main.cc": "grpcpp/grpcpp.h",                        # Good.
        "client/bad.cc": "server/options.h",
        "common/bad.h": "client/bad.h",
        "server/jobs/bad.cc": "grpcpp/grpcpp.h",
        "server/jobs/bad_test.cc": "c10/util/Exception.h",
        "server/data/bad.cc": "server/training/fine_tuner.h",
        "server/training/bad.cc": "opencv2/core.hpp",
        "server/inference/bad.cc": "server/model/weights.h",
        "server/service/bad.cc": "server/model/registry.h",  # Has weights.h.
        "server/server.cc": "torch/torch.h",
    }
    expected = {path for path in house if "bad" in path} | {"server/server.cc"}
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        for path, to in house.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(f'#pragma once\n#include "{to}"\n')
        found = check(root)
    assert {f.split(":2:")[0] for f in found} == expected, "\n".join(found)


def main():
    self_test()
    here = pathlib.Path(__file__).resolve().parent.parent
    found = check(pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else here)
    print("\n".join(found) or "layering: all includes are allowed")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
