"""Parts that measure: the forward pass, serving, training beside serving."""

import statistics
import time

import data
import machine
import states
from kit import json_lines, last_line
from server import Server, errors_of

PRECISIONS = ("fp32", "tf32", "fp16", "bf16")


def weights_file(kit):
    """(a file for the benchmarks, which need one, and its number of classes)"""
    if kit.weights:
        return kit.weights, 1000
    classes = [p for p in (kit.data / "train").iterdir() if p.is_dir()]
    return data.published(states.base(kit), 1), len(classes)


def _rates(line):
    return ", ".join(f"{batch}: {rate:.0f}"
                     for batch, rate in line["images_per_second"].items())


def forward(kit):
    if not kit.has("predictor_benchmark"):
        kit.skip("forward passes", "predictor_benchmark is not in the kit")
        return
    batches = kit.by_device((1, 2, 4, 8, 16, 32, 64), (1, 8))
    seconds = kit.by_device(0.7, 0.5)
    weights, classes = weights_file(kit)
    for precision in kit.by_device(PRECISIONS, ("fp32",)):
        done = kit.run("predictor_benchmark", "--device", kit.device,
                       "--precision", precision, "--weights", weights,
                       "--classes", classes, "--seconds", seconds, "--batch",
                       *batches, most=60)
        lines = json_lines(done.stdout)
        if done.returncode != 0 or not lines:
            kit.check(f"forward {precision}", False,
                      last_line(done.stderr or done.stdout))
            continue
        line = lines[-1]
        kit.measured(f"forward {precision}, images/s by batch", _rates(line))
        own, device = line.get("bytes", 0), line.get("device_bytes", 0)
        if kit.on_gpu and own:
            kit.measured(f"memory {precision}",
                         f"{own / 2**20:.0f} MiB by the model's count, "
                         f"{device / 2**20:.0f} MiB by the GPU's, ratio "
                         f"{device / own:.2f}; loaded in "
                         f"{line.get('load_seconds', 0):.2f} s")
    if not kit.on_gpu:
        kit.skip("forward tf32, fp16, bf16", "needs a GPU")


def _measured_load(kit, server, callers, seconds):
    """(report, (cores of the server, cores of the machine))"""
    warmup = 1.0
    load = server.start_load(data.test_folder(kit.data), "--concurrency",
                             callers, seconds=seconds, warmup=warmup)
    time.sleep(warmup + 0.3)
    meter = machine.CpuMeter(server.pid)
    time.sleep(seconds - 0.5)
    used = meter.cores()
    return server.finish_load(load), used


def _serve(kit, server, precision, callers, seconds):
    report, (own, whole) = _measured_load(kit, server, callers, seconds)
    times = report.get("server_ms", {})
    words = (f"{report['images_per_second']:.0f} images/s, p50 "
             f"{report['p50_ms']:.1f} ms, p99 {report['p99_ms']:.1f} ms; "
             f"batch {times.get('batch_size', 0):.1f}, of the time queue "
             f"{times.get('queue', 0):.1f}, decoding "
             f"{times.get('preprocess', 0):.1f}, compute "
             f"{times.get('compute', 0):.1f} ms; cores: server {own:.1f}, "
             f"all {whole:.1f} of {machine.cores()}")
    name = f"serving {precision}, {callers} callers"
    if errors_of(report):
        kit.check(name, False, f"{words}; errors: {report['errors']}")
    else:
        kit.measured(name, words)


def serving(kit):
    plan = kit.by_device({"fp32": (1, 8, 32, 128), "tf32": (1, 8, 32, 128),
                          "fp16": (1, 8, 32, 128)}, {"fp32": (1, 8)})
    state = states.copy(kit, "state_serving")
    for precision, levels in plan.items():
        if precision == "fp16" and kit.deadline.left() < 30:
            levels = (32, 128)
        flags = ("--precision", precision) if kit.on_gpu else ()
        with Server(kit, state, *flags) as server:
            for callers in levels:
                _serve(kit, server, precision, callers, kit.by_device(3, 2))


def _job_speed(server, job_id):
    """Of the epoch that runs now, and of those that ended."""
    progress = server.job(job_id).get("progress", {})
    epochs = [e.get("images_per_second", 0)
              for e in progress.get("epochs", [])][-3:]
    return statistics.median(epochs) if epochs else progress.get(
        "images_per_second", 0)


def _neighbour_words(report):
    return (f"p50 {report['p50_ms']:.1f} ms, p99 {report['p99_ms']:.1f} ms at "
            f"{report['images_per_second']:.0f} of {report['rate']:.0f} "
            f"images/s, {errors_of(report)} errors")


def _beside_job(kit, server, photos, rate, seconds, wait):
    big = data.multiplied(kit, *kit.by_device((4096, 128), (32, 8)))
    job_id = server.start_job(big, "--name", "beside", "--epochs", 1000,
                              "--hold-promotion", "--lr", 0.001,
                              "--batch-size", kit.by_device(64, 8))
    server.wait_for_epoch(job_id, 1)
    time.sleep(1)  # Past the first, slow steps.
    report = server.load(photos, "--rate", rate, seconds=seconds)
    speed = _job_speed(server, job_id)
    server.client("cancel", job_id)
    kit.measured(f"beside a job, step wait {wait}",
                 f"{_neighbour_words(report)}; the job trains at {speed:.0f} "
                 "images/s")


def neighbour(kit):
    seconds = kit.by_device(12, 5)
    photos = data.test_folder(kit.data)
    state = states.copy(kit, "state_neighbour")
    rate = None
    for wait in kit.by_device(("auto", "always", "never"), ("auto",)):
        with Server(kit, state, "--trainer_step_wait", wait) as server:
            if rate is None:
                peak = server.load(photos, "--concurrency",
                                   kit.by_device(32, 8), seconds=3)
                rate = max(0.1, round(peak["images_per_second"] / 2, 1))
                report = server.load(photos, "--rate", rate, seconds=seconds)
                kit.measured("without a job", _neighbour_words(report))
            _beside_job(kit, server, photos, rate, seconds, wait)
