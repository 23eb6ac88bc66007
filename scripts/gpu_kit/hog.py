#!/usr/bin/env python3
"""Takes a GPU's memory but some MiB, and holds it until standard input closes:
hog.py FREE_MIB. Prints one line once it holds it."""

import sys

import torch

MIB = 1 << 20


def take(free_mib):
    """All but that, in ever smaller pieces: free memory lies scattered."""
    held, piece = [], 4096 * MIB
    while piece >= 2 * MIB:
        free, _ = torch.cuda.mem_get_info()
        if free - piece < free_mib * MIB:
            piece //= 2
            continue
        try:
            held.append(torch.empty(piece, dtype=torch.uint8, device="cuda"))
        except torch.cuda.OutOfMemoryError:
            piece //= 2
    return held


def main():
    free_mib = int(sys.argv[1])
    held = take(free_mib)
    free, total = torch.cuda.mem_get_info()
    taken = sum(piece.numel() for piece in held)
    print(f"holding {taken // MIB} of {total // MIB} MiB, {free // MIB} free",
          flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
