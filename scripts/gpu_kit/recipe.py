#!/usr/bin/env python3
"""Fine-tunes ResNet18 in Python, as README.md's recipe says: what our training
is compared with.

  recipe.py --data DIR --weights FILE [--epochs 5] [--batch 64] [--workers 0]
            [--device cuda] [--lr 0.001] [--fast]

--fast: channels-last, bf16 autocast and cudnn.benchmark, which the recipe as
written does without. Needs PyTorch and torchvision.
"""

import argparse
import contextlib
import pathlib
import time

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets, models, transforms

import weights as weight_files

NORMALIZE = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
TRAIN = transforms.Compose([
    transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(),
    transforms.ToTensor(), NORMALIZE])
TEST = transforms.Compose([
    transforms.Resize(256), transforms.CenterCrop(224),
    transforms.ToTensor(), NORMALIZE])


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--weights", type=pathlib.Path, required=True)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--lr", type=float, default=0.001)
    parser.add_argument("--fast", action="store_true")
    return parser.parse_args()


def loaders(args):
    test = "test" if (args.data / "test").is_dir() else "val"
    made = []
    for split, transform in (("train", TRAIN), (test, TEST)):
        made.append(DataLoader(
            datasets.ImageFolder(args.data / split, transform),
            batch_size=args.batch, shuffle=split == "train",
            num_workers=args.workers, pin_memory=args.device == "cuda",
            persistent_workers=args.workers > 0))
    return made


def make_net(args, classes):
    """Pretrained features and a new fc layer."""
    net = models.resnet18()
    state = weight_files.load(args.weights)
    net.fc = nn.Linear(net.fc.in_features, state["fc.bias"].numel())
    net.load_state_dict(state)
    net.fc = nn.Linear(net.fc.in_features, classes)
    memory = torch.channels_last if args.fast else torch.contiguous_format
    return net.to(args.device, memory_format=memory)


def make_optimizer(net, lr):
    head = list(net.fc.parameters())
    features = [p for name, p in net.named_parameters()
                if not name.startswith("fc.")]
    return torch.optim.SGD([{"params": features, "lr": lr},
                            {"params": head, "lr": 10 * lr}],
                           weight_decay=0.001)


def run_epoch(net, loader, args, optimizer=None):
    """Trains, or tests without an optimizer. (loss, accuracy, images/s)"""
    net.train(optimizer is not None)
    autocast = (torch.autocast(args.device, dtype=torch.bfloat16)
                if args.fast else contextlib.nullcontext())
    loss_sum = torch.zeros((), device=args.device)
    right = torch.zeros((), device=args.device, dtype=torch.int64)
    count, start = 0, time.perf_counter()
    for images, labels in loader:
        images = images.to(args.device, non_blocking=True)
        labels = labels.to(args.device, non_blocking=True)
        if args.fast:
            images = images.contiguous(memory_format=torch.channels_last)
        with torch.set_grad_enabled(optimizer is not None), autocast:
            outputs = net(images)
            loss = nn.functional.cross_entropy(outputs, labels)
        if optimizer is not None:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        loss_sum += loss.detach() * len(labels)
        right += (outputs.argmax(1) == labels).sum()
        count += len(labels)
    loss, accuracy = loss_sum.item() / count, right.item() / count
    return loss, accuracy, count / (time.perf_counter() - start)


def main():
    args = parse_arguments()
    torch.backends.cudnn.benchmark = args.fast
    train, test = loaders(args)
    net = make_net(args, len(train.dataset.classes))
    optimizer = make_optimizer(net, args.lr)
    for epoch in range(1, args.epochs + 1):
        loss, accuracy, speed = run_epoch(net, train, args, optimizer)
        _, test_accuracy, _ = run_epoch(net, test, args)
        print(f"epoch {epoch}, loss {loss:.3f}, train acc {accuracy:.3f}, "
              f"test acc {test_accuracy:.3f} (train {speed:.1f} img/s)",
              flush=True)


if __name__ == "__main__":
    main()
