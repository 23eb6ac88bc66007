// Files of torch.save(model.state_dict()), in both of its formats, and of
// dictionaries that hold a state_dict: pickle.h says which.
//
// INVALID_ARGUMENT names a file that torch wrote of something else, and says
// how to save it: a whole model, a TorchScript archive, one of a big-endian
// machine. Records and tensors may exceed the file by 256 MiB.

#ifndef SERVER_MODEL_TORCH_FILE_H_
#define SERVER_MODEL_TORCH_FILE_H_

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/model/weights.h"

namespace finetune {

// Since PyTorch 1.6: a zip archive with data.pkl and one record a storage.
// Records may be deflated, as by another program that packed it again.
bool IsTorchZip(absl::string_view bytes);
absl::StatusOr<StateDict> ParseTorchZip(absl::string_view bytes);

// Before: five pickles in a row (magic number, protocol, system, state_dict,
// storage keys), then each storage as a 64-bit count and its elements.
bool IsTorchLegacy(absl::string_view bytes);
absl::StatusOr<StateDict> ParseTorchLegacy(absl::string_view bytes);

}  // namespace finetune

#endif  // SERVER_MODEL_TORCH_FILE_H_
