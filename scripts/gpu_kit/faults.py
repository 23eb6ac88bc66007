"""Parts that break things: crashes, a full GPU, models that come and go."""

import contextlib
import re
import select
import subprocess
import sys
import time

import data
import machine
import states
from kit import HERE, Deadline, Failed
from server import Server, errors_of, outcome

RESOURCE_EXHAUSTED = 8  # google.rpc.Code


def _long_job(kit, server, epochs):
    """One that is still running when we have done our harm."""
    return server.start_job(kit.data, "--name", "crashed", "--epochs", epochs,
                            "--hold-promotion", *states.job_flags(kit))


def _events(job):
    return "; ".join(event.get("message", "") for event in job.get("events", []))


def crash(kit):
    epochs = kit.by_device(40, 4)
    state = kit.work / "state_crash"
    server = Server(kit, state, "--checkpoint_interval", 1)
    server.start()
    try:
        job_id = _long_job(kit, server, epochs)
        server.wait_for_epoch(job_id, 2)
        for trainer in server.trainers():
            machine.kill(trainer)
        job = server.wait_for_job(job_id)
        restarts = job.get("trainer_restarts", 0)
        kit.check("trainer killed", job["state"] == "JOB_STATE_SUCCEEDED"
                  and restarts == 1,
                  f"{outcome(job)}, {restarts} restart: {_events(job)[:200]}")

        job_id = _long_job(kit, server, epochs)
        server.wait_for_epoch(job_id, 2)
        server.kill()
        server.start()
        job = server.wait_for_job(job_id)
        kit.check("server killed", job["state"] == "JOB_STATE_SUCCEEDED"
                  and "goes on from" in _events(job),
                  f"{outcome(job)}; up again in {server.seconds_to_start:.1f} "
                  f"s: {_events(job)[:200]}")
    finally:
        server.stop()


@contextlib.contextmanager
def hog(kit, free_mib):
    """While the GPU has no more than that free."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", str(HERE / "hog.py"), str(free_mib)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True)
    try:
        speaks, _, _ = select.select([process.stdout], [], [],
                                     kit.deadline.timeout(40))
        line = process.stdout.readline().strip() if speaks else ""
        if not line:
            process.kill()
            raise Failed("could not fill the GPU: "
                         + process.stderr.read()[-300:])
        kit.log(f"{line}, as told to leave {free_mib} MiB")
        yield line
    finally:
        process.stdin.close()
        machine.stop(process)


def _short_job(kit, server, seconds, batch=states.BATCH):
    """A job of one epoch, which must end, one way or the other."""
    job_id = server.start_job(kit.data, "--name", "tight", "--epochs", 1,
                              "--hold-promotion",
                              *states.job_flags(kit, batch))
    whole, kit.deadline = kit.deadline, Deadline(
        kit.deadline.timeout(seconds))
    try:
        return server.wait_for_job(job_id)
    finally:
        kit.deadline = whole


def _job_must_fail_of_memory(kit, server, free_mib):
    name = f"job with {free_mib} MiB free"
    try:
        job = _short_job(kit, server, 30, batch=128)
    except Failed as failure:
        kit.check(name, False, f"hangs: {failure}")
        return
    error = job.get("error", {})
    message = error.get("message", "")
    named = re.search(r"(?i)(gpu|cuda)", message) and "memory" in message
    kit.check(name, bool(error.get("code") == RESOURCE_EXHAUSTED and named),
              f"code {error.get('code')}, {outcome(job)}")


def _served(server, photos, model):
    """(whether all were classified, in words)"""
    answers, said = server.classify(photos, model=model)
    expected = len(data.photos_in(photos))
    words = f"{len(answers)} of {expected} photos"
    return len(answers) == expected, f"{words}; {said[-250:]}" if said else words


def memory(kit):
    """Parts of it can only be seen: whether a model still fits into little
    memory depends on what the server's allocator kept."""
    photos = data.test_folder(kit.data)
    with Server(kit, states.copy(kit, "state_memory"), "--model_memory",
                1 << 20) as server:
        states.classified(kit, server, photos, "photos@2")
        with hog(kit, 64) as held:
            kit.measured("GPU filled", held)
            fits, said = _served(server, photos, "photos@1")
            kit.measured("another model on the full GPU", said)
            alive = server.process.poll() is None
            kit.check("the server after that", alive,
                      "serves on" if alive else "has ended")
            if not alive:
                return
            # Where the other did fit, this one has made room for it.
            holds, said = _served(server, photos,
                                  "photos@1" if fits else "photos@2")
            kit.check("the loaded model on the full GPU", holds, said)
            _job_must_fail_of_memory(kit, server, 64)
        with hog(kit, 900):
            _job_must_fail_of_memory(kit, server, 900)
        for model in ("photos@1", "photos@2"):
            holds, said = _served(server, photos, model)
            kit.check(f"{model} once there is room", holds, said)
        job = _short_job(kit, server, 60)
        kit.check("job once there is room",
                  job["state"] == "JOB_STATE_SUCCEEDED", outcome(job))


def _promote(server, version):
    done = server.client("promote", f"photos@{version}")
    if done.returncode != 0:
        raise Failed(f"promote photos@{version}: {done.stderr.strip()[-200:]}")


def _promote_in_turn(server, count, seconds, after_four):
    """Returns how many were done in time."""
    begin = time.monotonic()
    for done in range(count):
        if time.monotonic() - begin > seconds:
            return done
        _promote(server, 1 + done % 2)
        if done == 3:
            after_four()
    return count


def _promotions_under_load(kit, server, count, meter):
    """Rows on errors and on the GPU's memory."""
    photos = data.test_folder(kit.data)
    begin = time.monotonic()
    _promote(server, 1)
    _promote(server, 2)
    one = (time.monotonic() - begin) / 2
    seconds = min(max(8.0, 1.3 * count * one + 2), 60.0)
    early = []
    load = server.start_load(photos, "--concurrency", 8, seconds=seconds,
                             warmup=0)
    try:
        done = _promote_in_turn(server, count, seconds - 2,
                                lambda: early.append(meter.mib(server.pid)))
        late = meter.mib(server.pid)
    finally:
        report = server.finish_load(load)
    kit.check("promotions under load",
              done == count and errors_of(report) == 0,
              f"{done} of {count}, {one:.2f} s each before the load; "
              f"{report['n']} photos answered, errors: "
              f"{report['errors'] or 'none'}")
    if not early or None in (early[0], late):
        kit.skip("GPU memory over the loads",
                 "no nvidia-smi" if kit.on_gpu else "needs a GPU")
        return
    kit.check("GPU memory over the loads", late <= 1.3 * early[0],
              f"{early[0]} MiB after 4 loads, {late} MiB after {done}")


def loads(kit):
    meter = machine.MemoryMeter()
    with Server(kit, states.copy(kit, "state_loads"), "--model_memory",
                1 << 20) as server:
        _promotions_under_load(kit, server, kit.by_device(40, 6), meter)
        job = _short_job(kit, server, 60)
        kit.check("job after the loads", job["state"] == "JOB_STATE_SUCCEEDED",
                  outcome(job))
