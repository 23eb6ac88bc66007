#!/usr/bin/env python3
"""Turns what benchmark.sh measured into Markdown tables.

Reads lines of JSON, {"part", "server", "round", "result"}; `result` is what the
measuring program printed. Of several rounds the median counts.
"""

import collections
import importlib.metadata
import json
import os
import platform
import statistics
import sys

NAMES = {
    "finetuned": "finetuned",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "torch": "eager PyTorch",
}


def machine():
    """Processor, cores and system, in words."""
    model = platform.processor() or platform.machine()
    with open("/proc/cpuinfo", encoding="utf-8") as info:
        for line in info:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    system = platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    return f"{len(os.sched_getaffinity(0))} cores of {model}, {system}"


def versions():
    packages = ("torch", "torchvision", "onnxruntime", "openvino", "grpcio",
                "pillow", "numpy")
    return ", ".join(f"{p} {importlib.metadata.version(p)}" for p in packages)


def row(*cells):
    print("| " + " | ".join(str(cell) for cell in cells) + " |")


def header(*cells):
    row(*cells)
    print("|" + "---|" * len(cells))


def ratio(ours, theirs):
    return f"{ours / theirs:.2f}" if theirs else "-"


def raw(lines):
    rates = collections.defaultdict(list)
    for line in lines:
        for batch, rate in line["result"]["images_per_second"].items():
            rates[line["server"], int(batch)].append(rate)
    rates = {key: statistics.median(values) for key, values in rates.items()}
    batches = sorted({batch for _, batch in rates})
    print("\nForward pass alone, FP32, images/s, and ours over theirs. OpenVINO "
          "in throughput mode.\n")
    header("engine", *(f"batch {batch}" for batch in batches))
    for server in NAMES:
        if not any(server == s for s, _ in rates):
            continue
        cells = []
        for batch in batches:
            cell = f"{rates[server, batch]:.1f}"
            if server != "finetuned" and ("finetuned", batch) in rates:
                cell += f" ({ratio(rates['finetuned', batch], rates[server, batch])})"
            cells.append(cell)
        row(NAMES[server], *cells)


def serve(lines):
    results = collections.defaultdict(list)
    for line in lines:
        results[line["server"], line["result"]["concurrency"]].append(
            line["result"])
    median = {
        key: {name: statistics.median(r[name] for r in rounds)
              for name in ("images_per_second", "p50_ms", "p99_ms")}
        for key, rounds in results.items()}
    levels = sorted({level for _, level in results})
    errors = sum(sum(r["errors"].values())
                 for rounds in results.values() for r in rounds)
    print("\nJPEG in, 5 labels out, over gRPC on one machine: images/s / p99 in "
          "ms (ours over theirs in images/s).\n")
    header("server", *(f"{level} callers" for level in levels))
    for server in NAMES:
        if not any(server == s for s, _ in results):
            continue
        cells = []
        for level in levels:
            m = median[server, level]
            cell = f"{m['images_per_second']:.1f} / {m['p99_ms']:.0f}"
            ours = median.get(("finetuned", level))
            if server != "finetuned" and ours:
                cell += f" ({ratio(ours['images_per_second'], m['images_per_second'])})"
            cells.append(cell)
        name = NAMES[server]
        row(name if server == "finetuned" else f"Python grpcio over {name}",
            *cells)
    if errors:
        print(f"\n{errors} requests FAILED.")


def overhead(lines):
    result = lines[-1]["result"]
    times = result["server_ms"]
    print(f"\nOne caller: {result['p50_ms']:.2f} ms p50, of which preprocessing "
          f"{times['preprocess']:.2f} ms and the forward pass "
          f"{times['compute']:.2f} ms on average. Our overhead (the total less "
          f"preprocessing and forward pass; waiting, both ends of gRPC and the "
          f"wire included): {result['overhead_p50_ms']:.2f} ms p50.")


def job(lines):
    print("\nClassify at half of the peak, Poisson arrivals, with and without a "
          "job that trains on the same machine.\n")
    header("", "images/s asked", "answered", "p50 ms", "p99 ms", "failed")
    for line in lines:
        result = line["result"]
        row(line["server"], f"{result['rate']:.1f}",
            f"{result['images_per_second']:.1f}", f"{result['p50_ms']:.1f}",
            f"{result['p99_ms']:.1f}", sum(result["errors"].values()))
    if len(lines) == 2:
        print(f"\np99 with a job over p99 without: "
              f"{ratio(lines[1]['result']['p99_ms'], lines[0]['result']['p99_ms'])}.")


def main():
    by_part = collections.defaultdict(list)
    with open(sys.argv[1], encoding="utf-8") as results:
        for text in results:
            line = json.loads(text)
            by_part[line["part"]].append(line)
    print(f"\nOn {machine()}, all in one run. ResNet18, 224x224, FP32, "
          f"{sys.argv[2]} threads. Peers: {versions()}.")
    if "serve" in by_part:
        print("The peers are our own small Python servers (scripts/bench): grpcio, "
              "Pillow, dynamic batching of up to 32, one engine each. They run the "
              "very weights that finetuned serves.")
    for part, print_part in (("raw", raw), ("serve", serve),
                             ("overhead", overhead), ("job", job)):
        if by_part[part]:
            print_part(by_part[part])


if __name__ == "__main__":
    main()
