// Reads the pickle of a PyTorch state_dict without executing anything.
//
// Pickle is a program for a stack machine that may call any Python function.
// This reader calls none. It knows what the few calls that torch.save makes of
// a state_dict would return (OrderedDict, _rebuild_tensor_v2,
// _rebuild_parameter and their kind), and refuses a state_dict that needs any
// other. Protocols 2 to 5.

#ifndef SERVER_MODEL_PICKLE_H_
#define SERVER_MODEL_PICKLE_H_

#include <cstdint>
#include <map>
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

struct PickledStateDict {
  std::vector<PickledTensor> tensors;  // In order.
  // By key, the type of each storage that the pickle names: also of those that
  // belong to something beside the state_dict.
  std::map<std::string, std::string> storage_types;
};

// The cure for a file that holds something else; ends a message.
inline constexpr char kSaveStateDict[] =
    "save its weights with torch.save(model.state_dict(), path)";

// Each function reads one pickle and advances `pickle` past it, since torch's
// older files hold several in a row.

// The tensors of a state_dict, which may also be an entry "state_dict",
// "model_state_dict" or "model" of a dictionary; what lies beside it is
// ignored, whatever it is. Every view is checked to lie within its storage's
// size, and that size to be at most 2^40. A view may repeat elements (stride
// 0).
//
// INVALID_ARGUMENT if the pickle is malformed or is something else, such as a
// whole model, or an entry is not a tensor or would need another call.
absl::StatusOr<PickledStateDict> ConsumeStateDictPickle(
    absl::string_view& pickle);

// Reads a list of strings.
absl::StatusOr<std::vector<std::string>> ConsumeStringListPickle(
    absl::string_view& pickle);

// Whether the system that torch's older format describes is little-endian.
absl::StatusOr<bool> ConsumeIsLittleEndianPickle(absl::string_view& pickle);

// Reads over one pickle of plain values.
absl::Status SkipPickle(absl::string_view& pickle);

}  // namespace finetune

#endif  // SERVER_MODEL_PICKLE_H_
