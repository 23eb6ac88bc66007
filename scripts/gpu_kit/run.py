#!/usr/bin/env python3
"""Runs the kit's parts in order, within a time, and prints a table. run.sh
starts it."""

import argparse
import dataclasses
import json
import pathlib
import platform
import sys
import time
import traceback

import checks
import data
import faults
import machine
import measurements
import training
from kit import Deadline, Failed, Kit

SPARE = 3  # Seconds at the end, to clean up.


@dataclasses.dataclass
class Part:
    name: str
    run: object
    group: str      # The log that it writes to.
    usual: int      # Seconds that must be left for it to begin,
    limit: int      # and that it may take, on a GPU.
    gpu_only: bool = False
    benchmark: bool = False  # Needs no server: runs with what was built here.


# The most telling first, for where time is short.
PARTS = [
    Part("tests", checks.tests, "tests", 25, 90, benchmark=True),
    Part("job", checks.job, "jobs", 25, 90),
    Part("parity", checks.parity, "jobs", 25, 75),
    Part("forward", measurements.forward, "measurements", 20, 75,
         benchmark=True),
    Part("serving", measurements.serving, "measurements", 30, 90),
    Part("training", training.training, "training", 35, 110, benchmark=True),
    Part("crash", faults.crash, "faults", 25, 75),
    Part("memory", faults.memory, "faults", 30, 90, gpu_only=True),
    Part("loads", faults.loads, "faults", 25, 90),
    Part("neighbour", measurements.neighbour, "measurements", 30, 100),
]


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), required=True)
    for name in ("--work", "--programs", "--out"):
        parser.add_argument(name, type=pathlib.Path, required=True)
    parser.add_argument("--libraries", required=True)
    parser.add_argument("--started", type=float, required=True)
    parser.add_argument("--budget", type=float, required=True)
    parser.add_argument("--built-here", action="store_true")
    parser.add_argument("--parts", default="")
    args = parser.parse_args()
    chosen = [name for name in args.parts.split(",") if name]
    for name in chosen:
        if name not in [part.name for part in PARTS]:
            parser.error(f"there is no part {name}; there are "
                         + ", ".join(part.name for part in PARTS))
    args.parts = [part for part in PARTS if not chosen or part.name in chosen]
    return args


def why_not(part, kit, left):
    """The reason to skip a part, or nothing."""
    if part.gpu_only and not kit.on_gpu:
        return "needs a GPU"
    if kit.built_here and not part.benchmark:
        return "the kit's server is for another LibTorch"
    if left < part.usual:
        return "no time left"
    return ""


def run_part(part, kit, left):
    kit.part, kit.group = part.name, part.group
    reason = why_not(part, kit, left)
    print(f"{part.name}", flush=True)
    if reason:
        kit.skip(part.name, reason)
        return
    kit.deadline = Deadline(min(part.limit * kit.by_device(1, 2), left))
    kit.log(f"===== {part.name}")
    begin = time.monotonic()
    try:
        part.run(kit)
    except Failed as failure:
        kit.check(part.name, False, str(failure))
    except Exception as error:  # A fault of the kit's must not end the run.
        kit.log(traceback.format_exc())
        kit.check(part.name, False, f"{type(error).__name__}: {error}")
    kit.log(f"===== {part.name}: {time.monotonic() - begin:.1f} s")


def header(kit, contents):
    system = platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    version = (pathlib.Path(__file__).parent / "VERSION").read_text(
        encoding="utf-8").split("\n")
    return (f"{machine.gpu() or 'no GPU'}; {machine.cores()} cores of "
            f"{machine.cpu_model()}; {system}; device {kit.device}\n"
            f"kit: {', '.join(v for v in version if v)}; {contents}")


def table(kit):
    cells = [("part", "what", "result", "verdict")]
    cells += [(r.part, r.name, r.result.replace("\n", " ").replace("|", "/"),
               r.verdict) for r in kit.rows]
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    return "\n".join([lines[0], "|---|---|---|---|", *lines[1:]])


def main():
    args = parse_arguments()
    end = args.started + args.budget - SPARE
    kit = Kit(args)
    if kit.on_gpu and machine.gpu() is None:
        sys.exit("run.py: no NVIDIA GPU answers nvidia-smi here; "
                 "--device cpu does without")
    contents = data.prepare(kit)
    first_lines = header(kit, contents)
    print(first_lines, flush=True)
    for part in args.parts:
        run_part(part, kit, end - time.time())
    failed = sum(row.verdict == "FAIL" for row in kit.rows)
    total = f"{time.time() - args.started:.0f} s in all, {failed} failed"
    text = f"{first_lines}\n{total}\n\n{table(kit)}\n"
    (args.out / "table.md").write_text(text, encoding="utf-8")
    (args.out / "rows.json").write_text(
        json.dumps([dataclasses.asdict(row) for row in kit.rows], indent=1),
        encoding="utf-8")
    print(f"{total}\n\n{table(kit)}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
