#include "server/model/safetensors.h"

#include <cstdint>
#include <cstring>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "nlohmann/json.hpp"

namespace finetune {
namespace {

using Json = nlohmann::json;

constexpr uint64_t kMaxHeaderBytes = 16 << 20;
constexpr size_t kMaxDimensions = 8;
constexpr int kMaxJsonDepth = 8;

absl::Status Malformed(absl::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat("neither a PyTorch nor a safetensors file: ", what));
}

std::optional<torch::ScalarType> TypeNamed(const std::string& name) {
  if (name == "F64") return torch::kFloat64;
  if (name == "F32") return torch::kFloat32;
  if (name == "F16") return torch::kFloat16;
  if (name == "BF16") return torch::kBFloat16;
  if (name == "I64") return torch::kInt64;
  if (name == "I32") return torch::kInt32;
  return std::nullopt;
}

// Non-negative integers below 2^40 each; nullopt if `json` is something else.
std::optional<std::vector<int64_t>> Integers(const Json& json) {
  if (!json.is_array() || json.size() > kMaxDimensions) return std::nullopt;
  std::vector<int64_t> numbers;
  for (const Json& item : json) {
    if (!item.is_number_unsigned() || item.get<uint64_t>() >= uint64_t{1}
                                                                  << 40) {
      return std::nullopt;
    }
    numbers.push_back(item.get<int64_t>());
  }
  return numbers;
}

// Bytes of a tensor; nullopt where they would exceed `limit`.
std::optional<uint64_t> BytesOf(const std::vector<int64_t>& shape,
                                torch::ScalarType type, uint64_t limit) {
  uint64_t bytes = torch::elementSize(type);
  for (const int64_t side : shape) {
    if (side != 0 && bytes > limit / side) return std::nullopt;
    bytes *= side;
  }
  return bytes;
}

absl::StatusOr<torch::Tensor> ParseTensor(const std::string& name,
                                          const Json& entry,
                                          absl::string_view data) {
  if (!entry.is_object() || !entry.contains("dtype") ||
      !entry["dtype"].is_string() || !entry.contains("shape") ||
      !entry.contains("data_offsets")) {
    return Malformed(absl::StrCat(name, " lacks dtype, shape or data_offsets"));
  }
  const auto type = TypeNamed(entry["dtype"].get<std::string>());
  const auto shape = Integers(entry["shape"]);
  const auto range = Integers(entry["data_offsets"]);
  if (!type.has_value() || !shape.has_value() || !range.has_value() ||
      range->size() != 2) {
    return Malformed(absl::StrCat(name, " has an unknown type or shape"));
  }
  const uint64_t begin = (*range)[0], end = (*range)[1];
  if (begin > end || end > data.size() ||
      BytesOf(*shape, *type, data.size()) != end - begin) {
    return Malformed(absl::StrCat(name, " does not fit its bytes"));
  }
  torch::Tensor tensor = torch::empty(*shape, *type);
  if (end > begin) {
    std::memcpy(tensor.data_ptr(), data.data() + begin, end - begin);
  }
  return tensor;
}

}  // namespace

absl::StatusOr<StateDict> ParseSafetensors(absl::string_view bytes) {
  uint64_t header_bytes = 0;
  if (bytes.size() < sizeof(header_bytes)) return Malformed("too short");
  std::memcpy(&header_bytes, bytes.data(), sizeof(header_bytes));
  bytes.remove_prefix(sizeof(header_bytes));
  if (header_bytes > kMaxHeaderBytes || header_bytes > bytes.size()) {
    return Malformed("no header");
  }
  // The callback bounds the depth, since the parser recurses.
  const absl::string_view text = bytes.substr(0, header_bytes);
  const Json header = Json::parse(
      text.begin(), text.end(),
      [](int depth, Json::parse_event_t, Json&) {
        return depth < kMaxJsonDepth;
      },
      /*allow_exceptions=*/false);
  if (!header.is_object()) return Malformed("the header is not JSON");

  StateDict state;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") continue;
    ASSIGN_OR_RETURN(state[name],
                     ParseTensor(name, entry, bytes.substr(header_bytes)));
  }
  return state;
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
