"""The engines that peers compute with: each a function from float32
[N, 3, 224, 224] to logits [N, classes], both NumPy.
"""


def onnx_runtime(model, threads):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        model, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"image": images})[0]


def openvino(model, threads):
    import openvino as ov

    # One batch at a time, all threads in it: what a batching server wants.
    compiled = ov.Core().compile_model(model, "CPU", {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
    })
    return lambda images: compiled([images])[0]


def torch_eager(model, threads):
    import export_onnx
    import torch

    torch.set_num_threads(threads)
    network = export_onnx.load(model)

    def forward(images):
        with torch.inference_mode():
            return network(torch.from_numpy(images)).numpy()

    return forward


# By name; torch takes a safetensors file, the others an ONNX file.
ENGINES = {"onnxruntime": onnx_runtime, "openvino": openvino,
           "torch": torch_eager}
