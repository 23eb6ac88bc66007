#include "server/model/torch_file.h"

#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "caffe2/serialize/inline_container.h"
#include "caffe2/serialize/read_adapter_interface.h"
#include "common/status_macros.h"
#include "server/model/pickle.h"

namespace finetune {
namespace {

using caffe2::serialize::PyTorchStreamReader;

std::optional<torch::ScalarType> TypeOfStorage(absl::string_view name) {
  if (name == "DoubleStorage") return torch::kFloat64;
  if (name == "FloatStorage") return torch::kFloat32;
  if (name == "HalfStorage") return torch::kFloat16;
  if (name == "BFloat16Storage") return torch::kBFloat16;
  if (name == "LongStorage") return torch::kInt64;
  if (name == "IntStorage") return torch::kInt32;
  if (name == "ShortStorage") return torch::kInt16;
  if (name == "CharStorage") return torch::kInt8;
  if (name == "ByteStorage" || name == "UntypedStorage") return torch::kUInt8;
  if (name == "BoolStorage") return torch::kBool;
  if (name == "ComplexFloatStorage") return torch::kComplexFloat;
  if (name == "ComplexDoubleStorage") return torch::kComplexDouble;
  return std::nullopt;
}

// What a file may grow by when it is read: records may be compressed, and
// tensors repeat elements. A ResNet18 has 45 MB.
constexpr uint64_t kMaxGrowth = 256 << 20;

// The bytes of a storage, by key; must hold at least as many as are asked for.
using StorageFn = std::function<absl::StatusOr<absl::string_view>(
    const std::string& key, uint64_t bytes)>;

// At most `limit` + 1, so that no product overflows.
uint64_t ElementsOf(const PickledTensor& tensor, uint64_t limit) {
  uint64_t elements = 1;
  for (const int64_t size : tensor.sizes) {
    if (size == 0) return 0;
  }
  for (const int64_t size : tensor.sizes) {
    if (elements > limit / size) return limit + 1;
    elements *= size;
  }
  return elements;
}

// `budget`: bytes that all tensors together may have. They may have more than
// the file, since a view may repeat elements and several may share a storage.
absl::StatusOr<StateDict> BuildTensors(
    const std::vector<PickledTensor>& pickled, uint64_t budget,
    const StorageFn& storage) {
  StateDict state;
  for (const PickledTensor& tensor : pickled) {
    const auto type = TypeOfStorage(tensor.storage_type);
    if (!type.has_value()) {
      return absl::InvalidArgumentError(
          absl::StrCat(tensor.name, " is of an unsupported type, ",
                       tensor.storage_type.substr(0, 100)));
    }
    const uint64_t element_bytes = torch::elementSize(*type);
    ASSIGN_OR_RETURN(
        const absl::string_view data,
        storage(tensor.storage_key, tensor.storage_size * element_bytes));
    const uint64_t elements = ElementsOf(tensor, budget / element_bytes);
    if (elements > budget / element_bytes) {
      return absl::InvalidArgumentError(absl::StrCat(
          tensor.name, " is larger than its storage; save it contiguous"));
    }
    budget -= elements * element_bytes;
    const torch::Tensor flat =
        torch::from_blob(const_cast<char*>(data.data()),  // Only read.
                         {tensor.storage_size}, *type);
    state[tensor.name] =
        flat.as_strided(tensor.sizes, tensor.strides, tensor.offset)
            .clone(at::MemoryFormat::Contiguous);
  }
  return state;
}

class ViewReader final : public caffe2::serialize::ReadAdapterInterface {
 public:
  explicit ViewReader(absl::string_view bytes) : bytes_(bytes) {}
  size_t size() const override { return bytes_.size(); }
  size_t read(uint64_t pos, void* buffer, size_t n,
              const char* /*what*/) const override {
    if (pos >= bytes_.size()) return 0;
    n = std::min(n, bytes_.size() - pos);
    std::memcpy(buffer, bytes_.data() + pos, n);
    return n;
  }

 private:
  const absl::string_view bytes_;
};

struct ZipRecord {
  at::DataPtr data;
  size_t size = 0;

  absl::string_view bytes() const {
    return {static_cast<const char*>(data.get()), size};
  }
};

absl::Status BigEndianError() {
  return absl::InvalidArgumentError(
      absl::StrCat("a file of a big-endian machine; on a little-endian one ",
                   kSaveStateDict));
}

// Reads records until they exceed `budget` bytes together, compressed ones
// included.
class RecordReader {
 public:
  explicit RecordReader(absl::string_view bytes)
      : zip_(std::make_shared<ViewReader>(bytes)),
        budget_(bytes.size() + kMaxGrowth) {}

  bool Has(const std::string& name) { return zip_.hasRecord(name); }

  absl::StatusOr<ZipRecord> Read(const std::string& name) {
    if (!Has(name)) {
      return absl::InvalidArgumentError(
          absl::StrCat("it lacks ", name, "; ", kSaveStateDict));
    }
    const uint64_t record_bytes = zip_.getRecordSize(name);
    if (record_bytes > budget_) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, " is compressed too far; ", kSaveStateDict));
    }
    budget_ -= record_bytes;
    auto [data, size] = zip_.getRecord(name);
    return ZipRecord{std::move(data), size};
  }

 private:
  PyTorchStreamReader zip_;
  uint64_t budget_;
};

// What a zip archive is, if not one of torch.save on a machine like this.
absl::Status CheckKind(RecordReader& records) {
  if (records.Has("constants.pkl") || records.Has("model.json")) {
    return absl::InvalidArgumentError(
        absl::StrCat("a TorchScript archive; ", kSaveStateDict));
  }
  if (!records.Has("byteorder")) return absl::OkStatus();
  ASSIGN_OR_RETURN(const ZipRecord order, records.Read("byteorder"));
  return order.bytes() == "big" ? BigEndianError() : absl::OkStatus();
}

absl::StatusOr<StateDict> ParseZipRecords(absl::string_view bytes) {
  RecordReader reader(bytes);
  RETURN_IF_ERROR(CheckKind(reader));
  ASSIGN_OR_RETURN(const ZipRecord pickle, reader.Read("data.pkl"));
  absl::string_view program = pickle.bytes();
  ASSIGN_OR_RETURN(const PickledStateDict pickled,
                   ConsumeStateDictPickle(program));

  std::map<std::string, ZipRecord> records;
  return BuildTensors(
      pickled.tensors, bytes.size() + kMaxGrowth,
      [&](const std::string& key,
          uint64_t wanted) -> absl::StatusOr<absl::string_view> {
        if (!records.contains(key)) {
          ASSIGN_OR_RETURN(records[key], reader.Read("data/" + key));
        }
        const ZipRecord& record = records[key];
        if (record.size < wanted) {
          return absl::InvalidArgumentError(
              absl::StrCat("storage ", key, " is truncated"));
        }
        return record.bytes();
      });
}

// LONG1 of torch's magic number, 0x1950a86a20f9469cfc6c.
constexpr absl::string_view kLegacyMagic(
    "\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", 12);

// Elements follow the keys in their order; the pickle tells each one's type.
absl::StatusOr<std::map<std::string, absl::string_view>> CutStorages(
    absl::string_view bytes, const std::vector<std::string>& keys,
    const std::map<std::string, std::string>& types) {
  std::map<std::string, uint64_t> element_bytes;
  for (const auto& [key, name] : types) {
    const auto type = TypeOfStorage(name);
    if (!type.has_value()) {
      return absl::InvalidArgumentError(
          absl::StrCat("storage ", key, " is of an unsupported type, ",
                       name.substr(0, 100)));
    }
    element_bytes[key] = torch::elementSize(*type);
  }
  std::map<std::string, absl::string_view> storages;
  for (const std::string& key : keys) {
    uint64_t count = 0;
    if (bytes.size() < sizeof(count) || !element_bytes.contains(key)) {
      return absl::InvalidArgumentError("the storages are truncated");
    }
    std::memcpy(&count, bytes.data(), sizeof(count));
    bytes.remove_prefix(sizeof(count));
    if (count > bytes.size() / element_bytes[key]) {
      return absl::InvalidArgumentError("the storages are truncated");
    }
    storages[key] = bytes.substr(0, count * element_bytes[key]);
    bytes.remove_prefix(storages[key].size());
  }
  return storages;
}

}  // namespace

bool IsTorchZip(absl::string_view bytes) {
  return absl::StartsWith(bytes, "PK\x03\x04");
}

bool IsTorchLegacy(absl::string_view bytes) {
  // PROTO, from 4 on with a FRAME.
  if (bytes.size() < 2 || bytes[0] != '\x80' || bytes[1] < 2 || bytes[1] > 5) {
    return false;
  }
  bytes.remove_prefix(2);
  if (absl::StartsWith(bytes, "\x95")) bytes = absl::ClippedSubstr(bytes, 9);
  return absl::StartsWith(bytes, kLegacyMagic);
}

absl::StatusOr<StateDict> ParseTorchZip(absl::string_view bytes) try {
  return ParseZipRecords(bytes);
} catch (const c10::Error& e) {
  const std::string what = e.what_without_backtrace();
  return absl::InvalidArgumentError(
      absl::StrContains(what, "unsupported method")
          ? absl::StrCat("compressed by a method other than deflate; ",
                         kSaveStateDict)
          : absl::StrCat("damaged zip archive: ", what));
}

absl::StatusOr<StateDict> ParseTorchLegacy(absl::string_view bytes) try {
  const uint64_t budget = bytes.size() + kMaxGrowth;
  for (int i = 0; i < 2; ++i) RETURN_IF_ERROR(SkipPickle(bytes));
  ASSIGN_OR_RETURN(const bool little, ConsumeIsLittleEndianPickle(bytes));
  if (!little) return BigEndianError();
  ASSIGN_OR_RETURN(const PickledStateDict pickled,
                   ConsumeStateDictPickle(bytes));
  ASSIGN_OR_RETURN(const auto keys, ConsumeStringListPickle(bytes));
  ASSIGN_OR_RETURN(const auto storages,
                   CutStorages(bytes, keys, pickled.storage_types));
  return BuildTensors(
      pickled.tensors, budget,
      [&](const std::string& key,
          uint64_t wanted) -> absl::StatusOr<absl::string_view> {
        const auto it = storages.find(key);
        if (it == storages.end() || it->second.size() < wanted) {
          return absl::InvalidArgumentError(
              absl::StrCat("storage ", key, " is truncated"));
        }
        return it->second;
      });
} catch (const c10::Error& e) {  // Of a shape whose products overflow.
  return absl::InvalidArgumentError(
      absl::StrCat("malformed tensor: ", e.what_without_backtrace()));
}

}  // namespace finetune
