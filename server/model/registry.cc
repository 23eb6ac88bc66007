#include "server/model/registry.h"

#include <algorithm>
#include <system_error>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/file.h"
#include "common/rpc_status.h"
#include "common/status_macros.h"
#include "google/protobuf/util/json_util.h"
#include "nlohmann/json.hpp"
#include "spdlog/spdlog.h"

namespace finetune {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr char kPromotionsFile[] = "promotions.json";
constexpr uint64_t kMaxJsonBytes = 16 << 20;

absl::StatusOr<v1::Model> ReadModelFile(const fs::path& dir) {
  ASSIGN_OR_RETURN(const std::string json,
                   ReadFile(dir / kModelFile, kMaxJsonBytes));
  v1::Model model;
  const auto parsed = google::protobuf::util::JsonStringToMessage(json, &model);
  if (!parsed.ok()) {
    return absl::DataLossError(
        absl::StrCat((dir / kModelFile).native(), ": ", parsed.ToString()));
  }
  if (!fs::exists(dir / kWeightsFile)) {
    return absl::DataLossError(
        absl::StrCat(dir.native(), " holds no ", kWeightsFile));
  }
  return model;
}

std::string NameOf(const v1::ModelRef& ref) {
  return ref.version() == 0 ? ref.name()
                            : absl::StrCat(ref.name(), "@", ref.version());
}

}  // namespace

absl::Status WriteModelFile(const fs::path& dir, const v1::Model& model) {
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = true;
  options.preserve_proto_field_names = true;
  std::string json;
  const auto printed =
      google::protobuf::util::MessageToJsonString(model, &json, options);
  if (!printed.ok()) return absl::InternalError(printed.ToString());
  return WriteFileAtomically(dir / kModelFile, json);
}

absl::StatusOr<std::unique_ptr<ModelRegistry>> ModelRegistry::Open(
    fs::path models_dir) {
  RETURN_IF_ERROR(MakeFolders(models_dir));
  auto registry =
      std::unique_ptr<ModelRegistry>(new ModelRegistry(std::move(models_dir)));
  std::error_code error;
  for (const auto& entry :
       fs::directory_iterator(registry->models_dir_, error)) {
    if (entry.is_directory()) registry->ReadVersions(entry.path());
  }
  if (error) {
    return absl::ErrnoToStatus(
        error.value(), absl::StrCat("list ", registry->models_dir_.native()));
  }
  RETURN_IF_ERROR(registry->ReadPromotions());
  return registry;
}

void ModelRegistry::ReadVersions(const fs::path& name_dir) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(name_dir, error)) {
    int64_t version = 0;
    if (!absl::SimpleAtoi(entry.path().filename().native(), &version)) continue;
    absl::StatusOr<v1::Model> model = ReadModelFile(entry.path());
    if (!model.ok()) {
      spdlog::warn("model left alone: {}", model.status().ToString());
      continue;
    }
    const std::string name = name_dir.filename();
    model->mutable_ref()->set_name(name);
    model->mutable_ref()->set_version(version);
    const MutexLock lock(mu_);
    models_[{name, version}] = *std::move(model);
  }
}

absl::Status ModelRegistry::ReadPromotions() {
  const fs::path path = models_dir_ / kPromotionsFile;
  if (!fs::exists(path)) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxJsonBytes));
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_array()) {
    return absl::DataLossError(absl::StrCat(path.native(), " is damaged"));
  }
  const MutexLock lock(mu_);
  for (const Json& entry : json) {
    const Key key(entry.value("name", ""), entry.value("version", int64_t{0}));
    if (models_.contains(key)) {
      promoted_.push_back(key);
    } else {
      spdlog::warn("promoted model {}@{} is gone", key.first, key.second);
    }
  }
  return absl::OkStatus();
}

absl::Status ModelRegistry::WritePromotions(
    const std::vector<Key>& promoted) const {
  Json json = Json::array();
  for (const auto& [name, version] : promoted) {
    json.push_back({{"name", name}, {"version", version}});
  }
  return WriteFileAtomically(models_dir_ / kPromotionsFile, json.dump(2));
}

absl::StatusOr<v1::Model> ModelRegistry::Publish(const std::string& name,
                                                 const fs::path& staging) {
  ASSIGN_OR_RETURN(v1::Model model, ReadModelFile(staging));
  const MutexLock lock(mu_);
  const int64_t version = NextVersion(name);
  model.mutable_ref()->set_name(name);
  model.mutable_ref()->set_version(version);
  RETURN_IF_ERROR(WriteModelFile(staging, model));
  RETURN_IF_ERROR(MakeFolders(models_dir_ / name));
  RETURN_IF_ERROR(RenameDurably(staging, DirOf(model.ref())));
  models_[{name, version}] = model;
  return model;
}

// Past every folder, readable or not: a version is never used twice.
int64_t ModelRegistry::NextVersion(const std::string& name) const {
  int64_t last = 0;
  std::error_code ignored;  // No folder, no version.
  for (const auto& entry :
       fs::directory_iterator(models_dir_ / name, ignored)) {
    int64_t version = 0;
    if (absl::SimpleAtoi(entry.path().filename().native(), &version)) {
      last = std::max(last, version);
    }
  }
  return last + 1;
}

absl::Status ModelRegistry::Promote(const v1::ModelRef& ref) {
  const Key key(ref.name(), ref.version());
  const MutexLock lock(mu_);
  if (!models_.contains(key)) return NoSuchResourceError("model", NameOf(ref));
  std::vector<Key> promoted = promoted_;
  std::erase_if(promoted, [&](const Key& k) { return k.first == ref.name(); });
  promoted.push_back(key);
  RETURN_IF_ERROR(WritePromotions(promoted));
  promoted_ = std::move(promoted);
  return absl::OkStatus();
}

absl::StatusOr<v1::Model> ModelRegistry::Resolve(
    const v1::ModelRef& ref) const {
  const MutexLock lock(mu_);
  if (ref.name().empty() && promoted_.empty()) {
    return PreconditionError(
        "MODEL", "", "no model has been promoted yet: fine-tune one first");
  }
  Key key(ref.name(), ref.version());
  if (ref.version() == 0) {
    const auto it = std::find_if(
        promoted_.rbegin(), promoted_.rend(), [&](const Key& promoted) {
          return ref.name().empty() || promoted.first == ref.name();
        });
    if (it != promoted_.rend()) key = *it;
  }
  const auto it = models_.find(key);
  if (it == models_.end()) return NoSuchResourceError("model", NameOf(ref));
  return it->second;
}

fs::path ModelRegistry::DirOf(const v1::ModelRef& ref) const {
  return models_dir_ / ref.name() / std::to_string(ref.version());
}

}  // namespace finetune
