// What a safetensors file holds, without copying it: 8 bytes of header length
// (little-endian), a JSON header of names, types, shapes and byte ranges, then
// the data.

#ifndef SERVER_MODEL_SAFETENSORS_VIEW_H_
#define SERVER_MODEL_SAFETENSORS_VIEW_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace finetune {

struct SafetensorsView {
  std::string type;            // "F64", "F32", "F16", "BF16", "I64" or "I32".
  std::vector<int64_t> shape;  // At most 8 sides.
  absl::string_view data;      // Row-major, little-endian; fits the shape.
};

// The tensors of `bytes`, which must outlive the views, by name.
//
// INVALID_ARGUMENT if the header is not one, or a range is outside of the
// data or does not fit its shape.
absl::StatusOr<std::map<std::string, SafetensorsView>> ViewSafetensors(
    absl::string_view bytes);

}  // namespace finetune

#endif  // SERVER_MODEL_SAFETENSORS_VIEW_H_
