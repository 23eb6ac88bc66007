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
  return std::nullopt;
}

// The bytes of a storage, by key; must hold at least as many as are asked for.
using StorageFn = std::function<absl::StatusOr<absl::string_view>(
    const std::string& key, uint64_t bytes)>;

absl::StatusOr<StateDict> BuildTensors(
    const std::vector<PickledTensor>& pickled, const StorageFn& storage) {
  StateDict state;
  for (const PickledTensor& tensor : pickled) {
    const auto type = TypeOfStorage(tensor.storage_type);
    if (!type.has_value()) {
      return absl::InvalidArgumentError(
          absl::StrCat(tensor.name, " is of an unsupported type, ",
                       tensor.storage_type.substr(0, 100)));
    }
    const uint64_t bytes = tensor.storage_size * torch::elementSize(*type);
    ASSIGN_OR_RETURN(const absl::string_view data,
                     storage(tensor.storage_key, bytes));
    // A view may repeat elements (stride 0) and so be larger than its storage.
    __extension__ unsigned __int128 elements = 1;
    for (const int64_t size : tensor.sizes) elements *= size;
    if (elements > static_cast<uint64_t>(tensor.storage_size)) {
      return absl::InvalidArgumentError(
          absl::StrCat(tensor.name, " is larger than its storage"));
    }
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

// Records are stored uncompressed, so none can be larger than the file.
absl::StatusOr<ZipRecord> ReadRecord(PyTorchStreamReader& zip,
                                     const std::string& name,
                                     size_t file_bytes) {
  if (!zip.hasRecord(name)) {
    return absl::InvalidArgumentError(absl::StrCat("it lacks ", name));
  }
  if (zip.getRecordSize(name) > file_bytes) {
    return absl::InvalidArgumentError(absl::StrCat(name, " is compressed"));
  }
  auto [data, size] = zip.getRecord(name);
  return ZipRecord{std::move(data), size};
}

absl::StatusOr<StateDict> ParseZipRecords(absl::string_view bytes) {
  PyTorchStreamReader zip(std::make_shared<ViewReader>(bytes));
  ASSIGN_OR_RETURN(const ZipRecord pickle,
                   ReadRecord(zip, "data.pkl", bytes.size()));
  absl::string_view program = pickle.bytes();
  ASSIGN_OR_RETURN(const auto tensors, ConsumeStateDictPickle(program));

  std::map<std::string, ZipRecord> records;
  return BuildTensors(
      tensors,
      [&](const std::string& key,
          uint64_t wanted) -> absl::StatusOr<absl::string_view> {
        if (!records.contains(key)) {
          ASSIGN_OR_RETURN(records[key],
                           ReadRecord(zip, "data/" + key, bytes.size()));
        }
        const ZipRecord& record = records[key];
        if (record.size < wanted) {
          return absl::InvalidArgumentError(
              absl::StrCat("storage ", key, " is truncated"));
        }
        return record.bytes();
      });
}

// Protocol 2, then LONG1 of torch's magic number, 0x1950a86a20f9469cfc6c.
constexpr absl::string_view kLegacyStart(
    "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", 14);

// Elements follow the keys in their order; the pickle tells each one's type.
absl::StatusOr<std::map<std::string, absl::string_view>> CutStorages(
    absl::string_view bytes, const std::vector<std::string>& keys,
    const std::vector<PickledTensor>& tensors) {
  std::map<std::string, uint64_t> element_bytes;
  for (const PickledTensor& tensor : tensors) {
    const auto type = TypeOfStorage(tensor.storage_type);
    if (type) element_bytes[tensor.storage_key] = torch::elementSize(*type);
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
  return absl::StartsWith(bytes, kLegacyStart);
}

absl::StatusOr<StateDict> ParseTorchZip(absl::string_view bytes) try {
  return ParseZipRecords(bytes);
} catch (const c10::Error& e) {
  return absl::InvalidArgumentError(
      absl::StrCat("damaged zip archive: ", e.what_without_backtrace()));
}

absl::StatusOr<StateDict> ParseTorchLegacy(absl::string_view bytes) {
  for (int i = 0; i < 3; ++i) RETURN_IF_ERROR(SkipPickle(bytes));
  ASSIGN_OR_RETURN(const auto tensors, ConsumeStateDictPickle(bytes));
  ASSIGN_OR_RETURN(const auto keys, ConsumeStringListPickle(bytes));
  ASSIGN_OR_RETURN(const auto storages, CutStorages(bytes, keys, tensors));
  return BuildTensors(
      tensors,
      [&](const std::string& key,
          uint64_t wanted) -> absl::StatusOr<absl::string_view> {
        const auto it = storages.find(key);
        if (it == storages.end() || it->second.size() < wanted) {
          return absl::InvalidArgumentError(
              absl::StrCat("storage ", key, " is truncated"));
        }
        return it->second;
      });
}

}  // namespace finetune
