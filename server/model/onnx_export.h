// A published model as an ONNX file, for runtimes that are not ours.
//
// Opset 17. Input `image` [batch, 3, 224, 224] float32, output `logits` [batch,
// classes] float32, without softmax; `batch` is free. Weights keep
// torchvision's names, and batch norm is not folded into the convolutions: the
// file then holds the very numbers of weights.safetensors, whoever wants to
// train on can, and runtimes fold it themselves when they load it.
//
// The metadata, each entry in JSON:
//   labels         the class names, by index
//   preprocessing  from a photo to `image`; the numbers that it needs
//   model          name, version, job, test accuracy, digests
//
// Thread-safe.

#ifndef SERVER_MODEL_ONNX_EXPORT_H_
#define SERVER_MODEL_ONNX_EXPORT_H_

#include <filesystem>

#include "absl/status/status.h"
#include "finetune/v1/model.pb.h"

namespace finetune {

// Writes `model`, whose weights are the safetensors file `weights`, to the file
// `path`, whole or not at all. Takes some 100 ms, and twice the weights' bytes
// of memory (90 MB).
//
// DATA_LOSS or INVALID_ARGUMENT if the weights are not those of a ResNet18 with
// the model's classes; others as the file system gives them.
absl::Status ExportOnnx(const v1::Model& model,
                        const std::filesystem::path& weights,
                        const std::filesystem::path& path);

}  // namespace finetune

#endif  // SERVER_MODEL_ONNX_EXPORT_H_
