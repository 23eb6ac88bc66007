#!/usr/bin/env python3
"""Writes a published model as ONNX: the file that the peers run, of the very
weights that finetuned serves. Opset 17, input `image` [N, 3, 224, 224], output
`logits` [N, classes]. Needs torch, torchvision, safetensors and onnx.
"""

import argparse
import pathlib

import safetensors.torch
import torch
import torchvision


def load(weights):
    """torchvision's ResNet18 with the weights of a safetensors file."""
    state = safetensors.torch.load_file(weights)
    model = torchvision.models.resnet18(num_classes=len(state["fc.bias"]))
    model.load_state_dict(state)
    return model.eval()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("weights", type=pathlib.Path)
    parser.add_argument("onnx", type=pathlib.Path)
    args = parser.parse_args()
    torch.onnx.export(
        load(args.weights), (torch.zeros(2, 3, 224, 224),), str(args.onnx),
        input_names=["image"], output_names=["logits"],
        dynamic_axes={"image": {0: "n"}, "logits": {0: "n"}},
        opset_version=17, dynamo=False)


if __name__ == "__main__":
    main()
