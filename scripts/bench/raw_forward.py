#!/usr/bin/env python3
"""Images per second of an engine alone: forward passes over random tensors.
Prints one line of JSON. OpenVINO runs in throughput mode: as many passes at
once as it wants for itself.
"""

import argparse
import json
import time

import numpy

import engines


def one_after_another(engine, images, seconds):
    """Images a second of a function that takes a batch."""
    for _ in range(3):
        engine(images)
    count, start = 0, time.monotonic()
    while time.monotonic() - start < seconds:
        engine(images)
        count += len(images)
    return count / (time.monotonic() - start)


def openvino_throughput(model, threads, images, seconds):
    import openvino as ov

    core = ov.Core()
    network = core.read_model(model)
    network.reshape(list(images.shape))
    compiled = core.compile_model(network, "CPU", {
        "PERFORMANCE_HINT": "THROUGHPUT",
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
    })
    requests = ov.AsyncInferQueue(compiled)
    for _ in range(3 * len(requests)):
        requests.start_async([images])
    requests.wait_all()
    count, start = 0, time.monotonic()
    while time.monotonic() - start < seconds:
        requests.start_async([images])
        count += len(images)
    requests.wait_all()
    return count / (time.monotonic() - start)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("engine", choices=sorted(engines.ENGINES))
    parser.add_argument("model", help="its ONNX or safetensors file")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5)
    args = parser.parse_args()
    rates = {}
    for batch in args.batch:
        images = numpy.random.default_rng(0).normal(
            size=(batch, 3, 224, 224)).astype(numpy.float32)
        if args.engine == "openvino":
            rates[batch] = openvino_throughput(args.model, args.threads,
                                               images, args.seconds)
        else:
            rates[batch] = one_after_another(
                engines.ENGINES[args.engine](args.model, args.threads), images,
                args.seconds)
    print(json.dumps({"images_per_second": rates}))


if __name__ == "__main__":
    main()
