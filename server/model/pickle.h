// Reads the pickle of a PyTorch state_dict without executing anything.
//
// Pickle is a program for a stack machine that may call any Python function.
// This reader knows the few calls that torch.save makes of a state_dict
// (OrderedDict, _rebuild_tensor_v2, _rebuild_parameter) and refuses all
// others. Protocols 2 to 5. Format: CPython's Lib/pickletools.py.

#ifndef SERVER_MODEL_PICKLE_H_
#define SERVER_MODEL_PICKLE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace finetune {

// A tensor as a view of a storage that is kept outside of the pickle.
struct PickledTensor {
  std::string name;          // Its key in the state_dict.
  std::string storage_key;   // Which storage.
  std::string storage_type;  // "FloatStorage", "LongStorage", ...
  int64_t storage_size = 0;  // Elements.
  int64_t offset = 0;        // First element.
  std::vector<int64_t> sizes;
  std::vector<int64_t> strides;  // In elements.
};

// Each function reads one pickle and advances `pickle` past it, since torch's
// older files hold several in a row.

// The tensors of a state_dict, in order. Every view is checked to lie within
// its storage's size, and that size to be at most 2^40.
//
// INVALID_ARGUMENT if the pickle is malformed, is not a state_dict, or would
// call something else.
absl::StatusOr<std::vector<PickledTensor>> ConsumeStateDictPickle(
    absl::string_view& pickle);

// Reads a list of strings.
absl::StatusOr<std::vector<std::string>> ConsumeStringListPickle(
    absl::string_view& pickle);

// Reads over one pickle of plain values.
absl::Status SkipPickle(absl::string_view& pickle);

}  // namespace finetune

#endif  // SERVER_MODEL_PICKLE_H_
