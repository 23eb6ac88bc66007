"""The part that measures training: our epochs, steps alone, Python's recipe."""

import importlib.util
import os
import re
import shlex
import statistics
import sys

import data
import machine
from kit import HERE, Failed, last_line
from measurements import weights_file


def _number(pattern, text):
    found = re.search(pattern, text, re.MULTILINE)
    return float(found[1]) if found else None


def _python_can(kit):
    """Whether the recipe's packages are here."""
    missing = [name for name in ("torchvision", "PIL", "numpy")
               if importlib.util.find_spec(name) is None]
    if missing:
        kit.skip("Python's recipe", f"no {', '.join(missing)} here")
    return not missing


def _recipe(kit, folder, epochs, *flags):
    """Its command, for a shell: with the machine's libraries, not the kit's."""
    before = os.environ.get("LD_LIBRARY_PATH", "")
    weights, _ = weights_file(kit)
    return shlex.join(
        ["env", f"LD_LIBRARY_PATH={before}", sys.executable, "-W", "ignore",
         str(HERE / "recipe.py"), "--data", str(folder), "--weights",
         str(weights), "--epochs", str(epochs), "--device", kit.device,
         "--batch", str(kit.by_device(64, 16)), "--workers",
         str(min(16, machine.cores())), *flags])


def _ours(kit, folder, epochs, against):
    """Runs our epochs, in turn with the recipe's; returns what was printed."""
    flags = ["--data", folder, "--weights", weights_file(kit)[0],
             "--device", kit.device, "--epochs", epochs, "--rounds", 1,
             "--bare", "--batch-size", kit.by_device(64, 16)]
    if kit.on_gpu:
        flags.append("--profile")
    if against:
        flags += ["--against", against]
    done = kit.run("training_benchmark", *flags, most=kit.by_device(120, 150))
    if done.returncode != 0:
        raise Failed(f"training_benchmark: "
                     f"{last_line(done.stderr or done.stdout)}")
    return done.stdout


def _fast_recipe(kit, folder, epochs, ours):
    command = _recipe(kit, folder, epochs, "--fast")
    done = kit.run_command(["sh", "-c", command], kit.environment(), 90)
    speeds = [float(s) for s in re.findall(r"train ([0-9.]+) img/s",
                                           done.stdout)]
    if done.returncode != 0 or not speeds:
        raise Failed(f"recipe.py --fast: {last_line(done.stderr)}")
    speed = statistics.median(speeds)
    kit.measured("Python's recipe, channels-last, bf16, cudnn.benchmark",
                 f"{speed:.0f} images/s; ours over it {ours / speed:.2f}")


def _with_benchmark(kit, folder, epochs, ours):
    """Ours again, where cuDNN may try its kernels first."""
    done = kit.run("training_benchmark", "--data", folder, "--weights",
                   weights_file(kit)[0], "--device", kit.device, "--epochs",
                   epochs, "--rounds", 1, "--cudnn-benchmark", most=60)
    speed = _number(r"^ours ([0-9.]+) images/s", done.stdout)
    if done.returncode != 0 or not speed:
        raise Failed(f"training_benchmark --cudnn-benchmark: "
                     f"{last_line(done.stderr or done.stdout)}")
    kit.measured("our epochs with --cudnn_benchmark",
                 f"{speed:.0f} images/s, median of {epochs}; over those "
                 f"without {speed / ours:.2f}")


def training(kit):
    if not kit.has("training_benchmark"):
        kit.skip("training", "training_benchmark is not in the kit")
        return
    folder = data.multiplied(kit, *kit.by_device((4096, 256), (48, 16)))
    epochs = kit.by_device(3, 1)
    python = _python_can(kit)
    against = (_recipe(kit, folder, epochs)
               if python else None)
    text = _ours(kit, folder, epochs, against)
    ours = _number(r"^ours ([0-9.]+) images/s", text)
    bare = _number(r"bare loop ([0-9.]+) images/s", text)
    theirs = _number(r"^theirs ([0-9.]+) images/s", text)
    if not ours:
        raise Failed(f"training_benchmark: {last_line(text)}")
    kit.measured("our epochs, fp32", f"{ours:.0f} images/s, median of {epochs}")
    if bare:
        kit.measured("steps over one batch on the device",
                     f"{bare:.0f} images/s; our epochs over it "
                     f"{ours / bare:.2f}")
    if python and theirs:
        kit.measured("Python's recipe, as written",
                     f"{theirs:.0f} images/s; ours over it {ours / theirs:.2f}")
    elif python:
        kit.check("Python's recipe, as written", False, "it printed no speed")
    profile = re.search(r"^profile:.*", text, re.MULTILINE)
    if profile:
        kit.measured("profile", f"{profile[0]}; its kernels are in "
                                f"{kit.group}.log")
    if kit.on_gpu:
        _with_benchmark(kit, folder, epochs, ours)
    if python:
        _fast_recipe(kit, folder, epochs, ours)
