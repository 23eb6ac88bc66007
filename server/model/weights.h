// Weight files: reading both formats that hold a state_dict, writing one, and
// putting tensors into a model.
//
// Free functions; thread-safe. Nothing in a file is executed.

#ifndef SERVER_MODEL_WEIGHTS_H_
#define SERVER_MODEL_WEIGHTS_H_

#include <filesystem>
#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/model/resnet18.h"
#include "torch/torch.h"

namespace finetune {

// Tensors by torchvision's name, such as "layer1.0.bn1.running_mean". On CPU,
// contiguous.
using StateDict = std::map<std::string, torch::Tensor>;

// Reads a file made by torch.save(model.state_dict(), path), in today's zip
// format or the one before PyTorch 1.6, or by safetensors' save_file. The
// content tells which; the name does not matter. At most 4 GiB. A dictionary
// may hold the state_dict as torch_file.h says. Of the prefixes "module.",
// "_orig_mod.", "resnet.", "backbone." and "model." those that all names begin
// with are removed.
//
// NOT_FOUND or INVALID_ARGUMENT; both name the file. What torch wrote of
// something else is named, with the way to save it.
absl::StatusOr<StateDict> ReadStateDict(const std::filesystem::path& path);

// INVALID_ARGUMENT that names a tensor which holds NaN or infinite numbers.
absl::Status CheckFinite(const StateDict& state);

// Parameters and buffers of `net`, copied to the CPU.
StateDict StateDictOf(const ResNet18Impl& net);

// Copies every tensor into `net`. Floating-point types are converted to
// float32. num_batches_tracked may be absent, as in files of old.
//
// INVALID_ARGUMENT that lists the missing, the surplus and the misshapen
// tensors; `net` is then unchanged.
absl::Status LoadStateDict(const StateDict& state, ResNet18Impl& net);

// A model for `classes` classes with the features of `state`, whose own
// fc.weight and fc.bias are ignored whatever their shape. The new fc is drawn
// from torch's generator.
//
// INVALID_ARGUMENT as LoadStateDict.
absl::StatusOr<ResNet18> WithNewHead(StateDict state, int64_t classes);

}  // namespace finetune

#endif  // SERVER_MODEL_WEIGHTS_H_
