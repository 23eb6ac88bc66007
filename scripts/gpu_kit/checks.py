"""Parts that compare: the tests, the main job, devices and precisions."""

import json
import re

import data
import states
from kit import Failed, last_line
from server import Server, accuracy, outcome


def tests(kit):
    names = sorted(path.name for pattern in ("cuda_*_test", "device*_test")
                   for path in kit.bin.glob(pattern))
    if not names:
        raise Failed("the kit has no test programs")
    for name in names:
        report = kit.work / f"{name}.json"
        try:
            done = kit.run(name, f"--gtest_output=json:{report}", most=90)
        except Failed as failure:
            kit.check(name, False, str(failure))
            continue
        if not report.is_file():
            kit.check(name, False, f"exit code {done.returncode}: "
                                   f"{last_line(done.stderr or done.stdout)}")
            continue
        kit.check(name, *_counted(kit, report))


def _counted(kit, report):
    """(whether all is well, in words) of GoogleTest's report."""
    content = json.loads(report.read_text(encoding="utf-8"))
    cases = [case for suite in content["testsuites"]
             for case in suite["testsuite"]]
    failed = [f"{c['classname']}.{c['name']}" for c in cases
              if c.get("failures")]
    skipped = sum(c.get("result") == "SKIPPED" for c in cases)
    passed = len(cases) - len(failed) - skipped
    words = f"{passed} passed, {len(failed)} failed, {skipped} skipped"
    if failed:
        words += ": " + ", ".join(failed)
    # Without a GPU they may all be skipped; with one, something must have run.
    return not failed and (passed > 0 or not kit.on_gpu), words


def _watched_job(kit, server, name, epochs):
    """As a user would: start, and watch to the end. Returns the job."""
    scratch = () if kit.weights else ("--from-scratch",)
    done = server.client("start", kit.data, "--name", name, "--epochs", epochs,
                         *scratch, *states.job_flags(kit), "--watch",
                         most=kit.by_device(60, 180))
    started = re.search(r"^job (\S+)", done.stdout, re.MULTILINE)
    if done.returncode != 0 or not started:
        raise Failed(f"finetune start --watch: "
                     f"{last_line(done.stderr or done.stdout)}")
    return server.job(started[1])


def _share_right(answers):
    """Of photos that lie in folders named by their class."""
    right = sum(max(scores, key=scores.get) == path.split("/")[-2]
                for path, scores in answers.items())
    return right / max(1, len(answers))


def _job_on(kit, device, state, epochs):
    """Trains and classifies; returns the job's test accuracy."""
    with Server(kit, state, device=device) as server:
        job = _watched_job(kit, server, "photos", epochs)
        tests_dir = data.test_folder(kit.data)
        answers = states.classified(kit, server, tests_dir)
        share = _share_right(answers)
        speeds = [epoch.get("images_per_second", 0)
                  for epoch in job["progress"]["epochs"]]
        kit.check(f"job on {device}", job["state"] == "JOB_STATE_SUCCEEDED",
                  f"{outcome(job)}, {epochs} epochs, test accuracy "
                  f"{accuracy(job):.3f}, {max(speeds):.0f} images/s; server "
                  f"up in {server.seconds_to_start:.1f} s")
        kit.check(f"classify on {device}", abs(share - accuracy(job)) <= 0.03,
                  f"{share:.3f} of {len(answers)} test photos right, the job "
                  f"measured {accuracy(job):.3f}")
        return accuracy(job)


def job(kit):
    epochs = kit.by_device(5, 2)
    state = kit.work / "state"
    ours = _job_on(kit, kit.device, state, epochs)
    kit.state = state
    if not kit.on_gpu:
        kit.skip("accuracy, GPU and CPU", "needs a GPU")
        return
    cpu = _job_on(kit, "cpu", kit.work / "state_cpu", epochs)
    kit.check("accuracy, GPU and CPU", abs(ours - cpu) <= 0.05,
              f"{ours:.3f} and {cpu:.3f}, the same seed")


def _compare(ours, reference):
    """(largest difference of a probability, share with the same label)"""
    largest, same = 0.0, 0
    for path, scores in reference.items():
        largest = max(largest, *(abs(p - ours[path][label])
                                 for label, p in scores.items()))
        same += max(scores, key=scores.get) == max(ours[path],
                                                   key=ours[path].get)
    return largest, same / max(1, len(reference))


def parity(kit):
    photos = kit.data if kit.on_gpu else data.test_folder(kit.data)
    with Server(kit, states.copy(kit, "state_parity_cpu"),
                device="cpu") as server:
        reference = states.classified(kit, server, photos)
    if not kit.on_gpu:
        with Server(kit, states.copy(kit, "state_parity"), "--threads",
                    1) as server:
            largest, _ = _compare(states.classified(kit, server, photos),
                                  reference)
        kit.check("CPU, one thread against all", largest <= 1e-3,
                  f"largest difference {largest:.1e}")
        kit.skip("fp32, tf32, fp16, bf16 against the CPU", "needs a GPU")
        return
    state = states.copy(kit, "state_parity")
    for precision in ("fp32", "tf32", "fp16", "bf16"):
        try:
            with Server(kit, state, "--precision", precision) as server:
                ours = states.classified(kit, server, photos)
        except Failed as failure:
            kit.check(f"{precision} against the CPU", False, str(failure))
            continue
        largest, same = _compare(ours, reference)
        holds = largest <= 1e-3 if precision == "fp32" else same >= 0.98
        kit.check(f"{precision} against the CPU", holds,
                  f"largest difference {largest:.1e}, {same:.3f} of "
                  f"{len(reference)} photos with the same label")
