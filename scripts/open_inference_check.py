#!/usr/bin/env python3
"""Calls every method of the Open Inference Protocol on a running server with
Triton's own client, and shows what the server makes of some photos.

    pip install 'tritonclient[grpc]'
    open_inference_check.py [--server HOST:PORT] [--model NAME] PHOTO...
"""

import argparse
import pathlib
import sys

import numpy
from tritonclient import grpc as triton
from tritonclient.utils import InferenceServerException


def image_tensor(photos):
    """The input: encoded photos, [N, 1]."""
    tensor = triton.InferInput("image", [len(photos), 1], "BYTES")
    tensor.set_data_from_numpy(
        numpy.array([[photo] for photo in photos], dtype=numpy.object_))
    return tensor


def describe(client, model):
    """Asks for all that is told about the server and the model."""
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready(model) and not client.is_model_ready("nobody")
    server = client.get_server_metadata()
    print(f"{server.name} {server.version}: {', '.join(server.extensions)}")
    for entry in client.get_model_repository_index().models:
        print(f"{entry.name} {entry.version} {entry.state}")
    metadata = client.get_model_metadata(model)
    for tensor in (*metadata.inputs, *metadata.outputs):
        print(f"{tensor.name}: {tensor.datatype} {list(tensor.shape)}")
    config = client.get_model_config(model).config
    print(f"{config.name}: up to {config.max_batch_size} images in a request")


def classify(client, model, paths):
    """Prints the label and the probabilities of each photo."""
    answer = client.infer(
        model, [image_tensor([path.read_bytes() for path in paths])])
    labels = answer.as_numpy("label")
    probabilities = answer.as_numpy("probabilities")
    assert labels.shape == (len(paths), 1)
    assert numpy.allclose(probabilities.sum(axis=1), 1, atol=1e-4)
    for path, label, row in zip(paths, labels[:, 0], probabilities):
        print(f"{path}: {label.decode()} {numpy.round(row, 4).tolist()}")
    best = client.infer(
        model, [image_tensor([paths[0].read_bytes()])],
        outputs=[triton.InferRequestedOutput("probabilities", class_count=1)])
    print(f"classification: {best.as_numpy('probabilities')[0, 0].decode()}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", default="127.0.0.1:50051")
    parser.add_argument("--model", default="", help="default: promoted last")
    parser.add_argument("photos", nargs="+", type=pathlib.Path)
    arguments = parser.parse_args()
    client = triton.InferenceServerClient(arguments.server)
    describe(client, arguments.model)
    classify(client, arguments.model, arguments.photos)
    try:
        client.infer(arguments.model, [image_tensor([b"no image"])])
        return "a text was taken for an image"
    except InferenceServerException as error:
        print(f"refused, as it should be: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
