#include "server/model/safetensors_view.h"

#include <cstring>
#include <optional>
#include <utility>

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

// Bytes of one element; 0 for an unknown type.
uint64_t ElementBytes(const std::string& type) {
  if (type == "F64" || type == "I64") return 8;
  if (type == "F32" || type == "I32") return 4;
  if (type == "F16" || type == "BF16") return 2;
  return 0;
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
                                uint64_t bytes, uint64_t limit) {
  for (const int64_t side : shape) {
    if (side != 0 && bytes > limit / side) return std::nullopt;
    bytes *= side;
  }
  return bytes;
}

absl::StatusOr<SafetensorsView> View(const std::string& name, const Json& entry,
                                     absl::string_view data) {
  if (!entry.is_object() || !entry.contains("dtype") ||
      !entry["dtype"].is_string() || !entry.contains("shape") ||
      !entry.contains("data_offsets")) {
    return Malformed(absl::StrCat(name, " lacks dtype, shape or data_offsets"));
  }
  const std::string type = entry["dtype"].get<std::string>();
  const uint64_t element_bytes = ElementBytes(type);
  const auto shape = Integers(entry["shape"]);
  const auto range = Integers(entry["data_offsets"]);
  if (element_bytes == 0 || !shape.has_value() || !range.has_value() ||
      range->size() != 2) {
    return Malformed(absl::StrCat(name, " has an unknown type or shape"));
  }
  const uint64_t begin = (*range)[0], end = (*range)[1];
  if (begin > end || end > data.size() ||
      BytesOf(*shape, element_bytes, data.size()) != end - begin) {
    return Malformed(absl::StrCat(name, " does not fit its bytes"));
  }
  return SafetensorsView{type, *shape, data.substr(begin, end - begin)};
}

}  // namespace

absl::StatusOr<std::map<std::string, SafetensorsView>> ViewSafetensors(
    absl::string_view bytes) {
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

  std::map<std::string, SafetensorsView> views;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") continue;
    ASSIGN_OR_RETURN(views[name],
                     View(name, entry, bytes.substr(header_bytes)));
  }
  return views;
}

}  // namespace finetune
