#include "server/model/safetensors.h"

#include <cstdint>
#include <cstring>
#include <map>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "nlohmann/json.hpp"
#include "server/model/safetensors_view.h"

namespace finetune {
namespace {

using Json = nlohmann::json;

// REQUIRES: a type of SafetensorsView.
torch::ScalarType TypeNamed(const std::string& name) {
  if (name == "F64") return torch::kFloat64;
  if (name == "F16") return torch::kFloat16;
  if (name == "BF16") return torch::kBFloat16;
  if (name == "I64") return torch::kInt64;
  if (name == "I32") return torch::kInt32;
  return torch::kFloat32;
}

}  // namespace

absl::StatusOr<StateDict> ParseSafetensors(absl::string_view bytes) try {
  ASSIGN_OR_RETURN(const auto views, ViewSafetensors(bytes));
  StateDict state;
  for (const auto& [name, view] : views) {
    torch::Tensor tensor = torch::empty(view.shape, TypeNamed(view.type));
    if (!view.data.empty()) {
      std::memcpy(tensor.data_ptr(), view.data.data(), view.data.size());
    }
    state[name] = tensor;
  }
  return state;
} catch (const c10::Error& e) {  // Of an empty shape whose strides overflow.
  return absl::InvalidArgumentError(
      absl::StrCat("malformed tensor: ", e.what_without_backtrace()));
}

std::string SerializeSafetensors(const StateDict& state) {
  Json header = {{"__metadata__", {{"format", "pt"}}}};
  size_t offset = 0;
  for (const auto& [name, tensor] : state) {
    header[name] = {
        {"dtype", tensor.scalar_type() == torch::kInt64 ? "I64" : "F32"},
        {"shape", tensor.sizes().vec()},
        {"data_offsets", {offset, offset + tensor.nbytes()}}};
    offset += tensor.nbytes();
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // Aligns the data.

  const uint64_t header_bytes = text.size();
  std::string file(reinterpret_cast<const char*>(&header_bytes),
                   sizeof(header_bytes));
  file.reserve(sizeof(header_bytes) + header_bytes + offset);
  file += text;
  for (const auto& [name, tensor] : state) {
    file.append(static_cast<const char*>(tensor.const_data_ptr()),
                tensor.nbytes());
  }
  return file;
}

}  // namespace finetune
