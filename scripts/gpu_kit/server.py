"""A finetuned of ours, driven by its command-line client as a user would."""

import json
import pathlib
import subprocess
import time

import machine
from kit import Failed, json_lines, last_line

ENDED = {"JOB_STATE_SUCCEEDED", "JOB_STATE_FAILED", "JOB_STATE_CANCELLED"}


class Server:
    """`with Server(kit, state, ...) as server:` starts and stops it."""

    def __init__(self, kit, state, *flags, device=None):
        self.kit, self.state, self.flags = kit, pathlib.Path(state), flags
        self.device = device or kit.device
        self.process = None
        self.address = ""
        self.seconds_to_start = 0.0

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, kind, error, *_):
        dead = self.process is not None and self.process.poll() is not None
        how = self.end_in_words() if dead else ""
        self.stop()
        if dead:  # Whatever failed because of it.
            raise Failed(f"the server has ended by itself ({how})") from error

    def start(self):
        self.state.mkdir(parents=True, exist_ok=True)
        out, log = self.state / "server.out", self.state / "server.log"
        command = [str(self.kit.bin / "finetuned"), "--address", "127.0.0.1:0",
                   "--state_dir", str(self.state), "--data_root",
                   str(self.kit.work), "--device", self.device,
                   "--log_requests", "errors", *map(str, self.flags)]
        if self.kit.weights:
            command += ["--pretrained", str(self.kit.weights)]
        self.kit.log("$ " + " ".join(command))
        begin = time.monotonic()
        with open(out, "w", encoding="utf-8") as o, \
                open(log, "w", encoding="utf-8") as e:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=o, stderr=e,
                env=self.kit.environment())
        machine.wait_until(self._has_ended_or_serves, self.kit.deadline, 0.05)
        self.seconds_to_start = time.monotonic() - begin
        if not self.address:
            how = self.end_in_words()
            self.stop()
            raise Failed(f"the server did not start ({how}): " + last_line(
                log.read_text(encoding="utf-8", errors="replace")))

    def _has_ended_or_serves(self):
        text = (self.state / "server.out").read_text(encoding="utf-8")
        for line in text.splitlines():
            if line.startswith("listening on "):
                self.address = line.removeprefix("listening on ").strip()
        return self.address or self.process.poll() is not None

    def end_in_words(self):
        code = self.process.poll()
        if code is None:
            return "still runs"
        return f"exit code {code}" if code >= 0 else f"signal {-code}"

    def kill(self):
        """As a crash would."""
        self.process.kill()
        self.process.wait()
        self._take_logs()

    def stop(self):
        if self.process is None:
            return
        machine.stop(self.process)
        self._take_logs()

    def _take_logs(self):
        self.process, self.address = None, ""
        self.kit.log_file(f"log of the server on {self.state.name}",
                          self.state / "server.log")
        for log in sorted(self.state.glob("jobs/*/trainer.log")):
            if log.stat().st_size:
                self.kit.log_file(f"log of trainer {log.parent.name}", log,
                                  20_000)

    @property
    def pid(self):
        return self.process.pid

    def trainers(self):
        return machine.children(self.pid)

    # The client.

    def client(self, *arguments, most=60.0, quiet=False):
        if self.process.poll() is not None:
            raise Failed("the server has gone")
        return self.kit.run("finetune", *arguments, most=most, quiet=quiet,
                            FINETUNE_SERVER=self.address)

    def ask(self, *arguments, quiet=False):
        """The answer as JSON. Raises where there is none."""
        done = self.client(*arguments, "--json", quiet=quiet)
        answers = json_lines(done.stdout)
        if not answers:
            raise Failed(f"finetune {arguments[0]}: {last_line(done.stderr)}")
        return answers[-1]

    def start_job(self, dataset, *flags):
        """Returns its id."""
        scratch = () if self.kit.weights else ("--from-scratch",)
        return self.ask("start", dataset, *scratch, *flags)["job"]["job_id"]

    def job(self, job_id):
        """Not logged: it is asked for again and again."""
        return self.ask("progress", job_id, quiet=True)["job"]

    def wait_for_job(self, job_id):
        """The job once it has ended."""
        last = {}

        def has_ended():
            last.update(self.job(job_id))
            return last.get("state") in ENDED

        if not machine.wait_until(has_ended, self.kit.deadline, 0.3):
            raise Failed(f"the job was still {last.get('state')} at the end of "
                         "this part's time")
        return last

    def wait_for_epoch(self, job_id, epoch):
        """Until it trains in that epoch, or later."""

        def is_there():
            job = self.job(job_id)
            if job.get("state") in ENDED:
                raise Failed(f"the job ended too early: {outcome(job)}")
            return int(job.get("progress", {}).get("epoch", 0)) >= epoch

        if not machine.wait_until(is_there, self.kit.deadline):
            raise Failed(f"the job did not come to epoch {epoch} in time")

    def classify(self, *paths, model=None, top_k=0):
        """(probabilities by label by file, what the client said of errors)"""
        flags = ("--model", model) if model else ()
        done = self.client("classify", *paths, "--json", "--top-k", top_k,
                           *flags, most=120)
        answers = {}
        for line in json_lines(done.stdout):
            if "scores" in line:
                answers[line["image"]] = {s["label"]: s["probability"]
                                          for s in line["scores"]}
        return answers, done.stderr.strip()

    # The load program.

    def load_command(self, photos, *flags, seconds, warmup=1.0):
        return [str(self.kit.bin / "finetune-load"), "--server", self.address,
                "--photos", str(photos), "--seconds", str(seconds),
                "--warmup", str(warmup), *map(str, flags)]

    def start_load(self, photos, *flags, seconds, warmup=1.0):
        command = self.load_command(photos, *flags, seconds=seconds,
                                    warmup=warmup)
        self.kit.log("$ " + " ".join(command))
        return subprocess.Popen(command, env=self.kit.environment(), text=True,
                                stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE)

    def finish_load(self, load):
        """What it measured."""
        try:
            out, error = load.communicate(timeout=self.kit.deadline.timeout())
        except subprocess.TimeoutExpired as late:
            load.kill()
            load.wait()
            raise Failed("the load program was not done in time") from late
        self.kit.log(out + error)
        try:
            return json.loads(last_line(out))
        except json.JSONDecodeError as bad:
            raise Failed(f"the load program: {last_line(error)}") from bad

    def load(self, photos, *flags, seconds, warmup=1.0):
        return self.finish_load(self.start_load(photos, *flags,
                                                seconds=seconds, warmup=warmup))


def outcome(job):
    """How a job ended, in words."""
    state = job.get("state", "unknown").removeprefix("JOB_STATE_").lower()
    error = job.get("error", {}).get("message", "")
    return f"{state}: {error[:300]}" if error else state


def accuracy(job):
    """Of the epoch that was published."""
    progress = job.get("progress", {})
    for epoch in progress.get("epochs", []):
        if epoch.get("epoch") == progress.get("best_epoch"):
            return epoch.get("test_accuracy", 0.0)
    return 0.0


def errors_of(report):
    return sum(report.get("errors", {}).values())
