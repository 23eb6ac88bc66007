#!/usr/bin/env python3
"""Compares the answers of `finetune classify --json --top-k 0` with torchvision's
own on the same files and weights, and a downloaded ONNX file's logits in ONNX
Runtime with torch's; see parity.sh.

    parity.py ANSWERS.jsonl STATE_DIR/models MODEL.onnx
"""

import json
import pathlib
import sys

import onnxruntime
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file
from torchvision import transforms as T

LIMIT = 1e-3  # Of a probability.
LOGIT_LIMIT = 1e-4
BATCH_SIZES = [1, 2, 3, 8, 32]


def load(folder):
    """The model of STATE_DIR/models/<name>/<version>/ and its labels."""
    labels = json.loads((folder / "model.json").read_text())["labels"]
    net = torchvision.models.resnet18(num_classes=len(labels))
    net.load_state_dict(load_file(folder / "weights.safetensors"))
    return net.eval(), labels


def compare_onnx(path, net, labels, images):
    """Whether ONNX Runtime's logits are torch's, for several batch sizes."""
    session = onnxruntime.InferenceSession(
        path, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["labels"]) == labels, metadata["labels"]
    worst = 0.0
    for size in BATCH_SIZES:
        batch = torch.cat([images[i % len(images)] for i in range(size)])
        logits, = session.run(["logits"], {"image": batch.numpy()})
        with torch.no_grad():
            difference = (torch.from_numpy(logits) - net(batch)).abs().max()
        worst = max(worst, difference.item())
    print(f"ONNX Runtime {onnxruntime.__version__}, batches of {BATCH_SIZES}:"
          f" largest difference of a logit {worst:.2e} (limit {LOGIT_LIMIT:g})")
    return worst <= LOGIT_LIMIT


def main():
    answers = [json.loads(line) for line in open(sys.argv[1]) if line.strip()]
    models = pathlib.Path(sys.argv[2])
    assert answers, "no answers to compare"
    first = answers[0]
    net, labels = load(models / first["model"] / str(first["version"]))
    transform = T.Compose([
        T.Resize(256), T.CenterCrop(224), T.ToTensor(),
        T.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])])
    worst, worst_image = 0.0, None
    images = []
    for answer in answers:
        with Image.open(answer["image"]) as image:
            batch = transform(image.convert("RGB"))[None]
        images.append(batch)
        with torch.no_grad():
            expected = net(batch).softmax(1)[0].tolist()
        given = {score["label"]: score.get("probability", 0.0)
                 for score in answer["scores"]}
        assert sorted(given) == sorted(labels), answer["image"]
        for label, probability in zip(labels, expected):
            difference = abs(given[label] - probability)
            if difference >= worst:
                worst, worst_image = difference, answer["image"]
    print(f"{len(answers)} photos, {len(labels)} classes: largest difference of a"
          f" probability {worst:.2e} (limit {LIMIT:g}), in {worst_image}")
    same_onnx = compare_onnx(sys.argv[3], net, labels, images)
    return 0 if worst <= LIMIT and same_onnx else 1


if __name__ == "__main__":
    sys.exit(main())
