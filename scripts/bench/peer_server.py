#!/usr/bin/env python3
"""A classifier as one would write it in Python: grpcio, Pillow and an engine,
with dynamic batching. Prints `listening on HOST:PORT`.

It serves peers.Classifier/Classify, in messages small enough to take apart by
hand:

    message Request { bytes image = 1; int32 top_k = 2; }
    message Answer { message Score { int32 index = 1; float probability = 2; }
                     repeated Score scores = 1; }

Handlers decode and transform (Pillow leaves the interpreter's lock for most of
it); one thread takes what waits, up to --max-batch, and runs the engine. It
never waits for a batch to fill.
"""

import argparse
import concurrent.futures
import io
import queue
import struct
import threading

import grpc
import numpy
from PIL import Image

import engines

MEAN = numpy.array([0.485, 0.456, 0.406], numpy.float32)
STD = numpy.array([0.229, 0.224, 0.225], numpy.float32)


def transform(encoded):
    """Resize(256), CenterCrop(224), Normalize, as torchvision does it."""
    picture = Image.open(io.BytesIO(encoded)).convert("RGB")
    width, height = picture.size
    short = min(width, height)
    picture = picture.resize((256 * width // short, 256 * height // short),
                             Image.Resampling.BILINEAR)
    left, top = (picture.width - 224) // 2, (picture.height - 224) // 2
    picture = picture.crop((left, top, left + 224, top + 224))
    pixels = numpy.asarray(picture, numpy.float32) * (1 / 255)
    return ((pixels - MEAN) / STD).transpose(2, 0, 1)


def read_varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at


def parse(request):
    """(image, top_k) of a Request."""
    image, top_k, at = b"", 0, 0
    while at < len(request):
        tag, at = read_varint(request, at)
        number, at = read_varint(request, at)
        if tag == 0x0A:
            image, at = request[at:at + number], at + number
        elif tag == 0x10:
            top_k = number
        else:
            raise ValueError("not a Request")
    return image, top_k


def serialize(probabilities, top_k):
    """An Answer with the best, all of them for top_k 0. Up to 128 classes."""
    best = numpy.argsort(-probabilities)[:top_k or None]
    return b"".join(
        struct.pack("<BBBBBf", 0x0A, 7, 0x08, index, 0x15, probabilities[index])
        for index in best.tolist())


class Batcher:
    def __init__(self, engine, max_batch):
        self.engine, self.max_batch = engine, max_batch
        self.waiting = queue.SimpleQueue()
        threading.Thread(target=self.work, daemon=True).start()

    def classify(self, pixels):
        answer = concurrent.futures.Future()
        self.waiting.put((pixels, answer))
        return answer.result()

    def take(self):
        batch = [self.waiting.get()]
        while len(batch) < self.max_batch:
            try:
                batch.append(self.waiting.get_nowait())
            except queue.Empty:
                break
        return batch

    def work(self):
        while True:
            batch = self.take()
            try:
                logits = self.engine(numpy.stack([pixels for pixels, _ in batch]))
                powers = numpy.exp(logits - logits.max(axis=1, keepdims=True))
                results = powers / powers.sum(axis=1, keepdims=True)
            except Exception as error:  # The next batch may fare better.
                for _, answer in batch:
                    answer.set_exception(error)
                continue
            for (_, answer), result in zip(batch, results):
                answer.set_result(result)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("engine", choices=sorted(engines.ENGINES))
    parser.add_argument("model", help="its ONNX or safetensors file")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--max-batch", type=int, default=32)
    parser.add_argument("--handlers", type=int, default=32)
    args = parser.parse_args()
    engine = engines.ENGINES[args.engine](args.model, args.threads)
    batcher = Batcher(engine, args.max_batch)

    def classify(request, context):
        try:
            image, top_k = parse(request)
            pixels = transform(image)
        except (ValueError, OSError, IndexError) as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        return serialize(batcher.classify(pixels), top_k)

    server = grpc.server(concurrent.futures.ThreadPoolExecutor(args.handlers))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(
        "peers.Classifier",
        {"Classify": grpc.unary_unary_rpc_method_handler(classify)}),))
    port = server.add_insecure_port(f"127.0.0.1:{args.port}")
    server.start()
    print(f"listening on 127.0.0.1:{port}", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
