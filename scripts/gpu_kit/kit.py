"""What all parts share: paths, the settings of this run, logs, results."""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent


class Failed(Exception):
    """A check that did not hold; its text says what was seen."""


class Deadline:
    def __init__(self, seconds):
        self.end = time.monotonic() + seconds

    def left(self):
        return self.end - time.monotonic()

    def timeout(self, most=1e9):
        """For a call that takes a timeout: at least a moment."""
        return max(0.1, min(most, self.left()))


@dataclasses.dataclass
class Row:
    part: str
    name: str
    result: str
    verdict: str  # PASS, FAIL, measured or skipped.


class Kit:
    """One run. A part finds here what it needs, and leaves its rows."""

    def __init__(self, args):
        self.device = args.device
        self.work = args.work
        self.bin = args.programs
        self.out = args.out
        self.built_here = args.built_here
        self.library_path = args.libraries
        self.testdata = args.work / "sources/server/testdata"
        self.data = None       # data.prepare sets these two.
        self.weights = None    # None: jobs train from scratch.
        self.rows = []
        self.part = ""
        self.group = "tests"   # Of the log.
        self.deadline = Deadline(args.budget)
        self.state = None      # states.base: a state folder with two versions.

    @property
    def on_gpu(self):
        return self.device == "cuda"

    def by_device(self, cuda, cpu):
        return cuda if self.on_gpu else cpu

    # Results.

    def add(self, name, result, verdict):
        self.rows.append(Row(self.part, name, result, verdict))
        print(f"  {verdict:8}  {name}: {result}", flush=True)

    def check(self, name, holds, result):
        self.add(name, result, "PASS" if holds else "FAIL")

    def measured(self, name, result):
        self.add(name, result, "measured")

    def skip(self, name, why):
        self.add(name, f"skipped: {why}", "skipped")

    # Logs: a file for a group of parts, since few files may come back.

    def log(self, text):
        with open(self.out / f"{self.group}.log", "a", encoding="utf-8") as log:
            log.write(text if text.endswith("\n") else text + "\n")

    def log_file(self, title, path, most=200_000):
        """The end of a file that a program wrote."""
        try:
            content = pathlib.Path(path).read_bytes()[-most:]
        except OSError as error:
            content = str(error).encode()
        self.log(f"--- {title}\n{content.decode(errors='replace')}")

    # Programs.

    def has(self, program):
        return (self.bin / program).is_file()

    def environment(self, **more):
        return {**os.environ, "LD_LIBRARY_PATH": self.library_path,
                "FINETUNE_TESTDATA": str(self.testdata), **more}

    def run(self, program, *arguments, most=1e9, quiet=False, **environment):
        """Runs one of the kit's programs to its end, and logs what it said."""
        command = [str(self.bin / program), *map(str, arguments)]
        return self.run_command(command, self.environment(**environment), most,
                                quiet)

    def run_python(self, script, *arguments, most=1e9):
        """Runs one of the kit's scripts, without the kit's libraries."""
        command = [sys.executable, "-W", "ignore", str(HERE / script),
                   *map(str, arguments)]
        return self.run_command(command, dict(os.environ), most)

    def run_command(self, command, environment, most=1e9, quiet=False):
        if not quiet:
            self.log("$ " + " ".join(command))
        timeout = self.deadline.timeout(most)
        # In a group of its own, so that what it started ends with it.
        process = subprocess.Popen(command, env=environment, text=True,
                                   stdin=subprocess.DEVNULL, errors="replace",
                                   stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE,
                                   start_new_session=True)
        try:
            out, error = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired as late:
            os.killpg(process.pid, signal.SIGKILL)
            self.log("".join(process.communicate()))
            raise Failed(f"{pathlib.Path(command[0]).name} was not done in "
                         f"{timeout:.0f} s") from late
        done = subprocess.CompletedProcess(command, process.returncode, out,
                                           error)
        if not quiet:
            self.log(done.stdout + done.stderr
                     + f"(exit code {done.returncode})")
        return done


def last_line(text):
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it said nothing"


def json_lines(text):
    """The JSON objects among the lines."""
    return [json.loads(line) for line in text.splitlines()
            if line.startswith("{")]
