#!/usr/bin/env python3
"""Compares the answers of `finetune classify --json --top-k 0` with torchvision's
own on the same files and weights; see parity.sh.

    parity.py ANSWERS.jsonl STATE_DIR/models
"""

import json
import pathlib
import sys

import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file
from torchvision import transforms as T

LIMIT = 1e-3  # Of a probability.


def load(folder):
    """The model of STATE_DIR/models/<name>/<version>/ and its labels."""
    labels = json.loads((folder / "model.json").read_text())["labels"]
    net = torchvision.models.resnet18(num_classes=len(labels))
    net.load_state_dict(load_file(folder / "weights.safetensors"))
    return net.eval(), labels


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
    for answer in answers:
        with Image.open(answer["image"]) as image:
            batch = transform(image.convert("RGB"))[None]
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
    return 0 if worst <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
