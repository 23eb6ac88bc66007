#include "server/model/registry.h"

#include <algorithm>
#include <system_error>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/file.h"
#include "common/rpc_status.h"
#include "common/status_macros.h"
#include "google/protobuf/util/json_util.h"
#include "spdlog/spdlog.h"

namespace finetune {
namespace {

namespace fs = std::filesystem;

constexpr char kTakenIn[] = "models taken in";
constexpr uint64_t kMaxJsonBytes = 16 << 20;

absl::Status CheckFiles(const fs::path& dir) {
  std::error_code ignored;
  for (const char* file : {kModelFile, kWeightsFile}) {
    if (fs::is_regular_file(dir / file, ignored)) continue;
    return absl::DataLossError(absl::StrCat(dir.native(), " holds no ", file));
  }
  return absl::OkStatus();
}

absl::StatusOr<v1::Model> ReadModelFile(const fs::path& dir) {
  ASSIGN_OR_RETURN(const std::string json,
                   ReadFile(dir / kModelFile, kMaxJsonBytes));
  v1::Model model;
  const auto parsed = google::protobuf::util::JsonStringToMessage(json, &model);
  if (!parsed.ok()) {
    return absl::DataLossError(
        absl::StrCat((dir / kModelFile).native(), ": ", parsed.ToString()));
  }
  RETURN_IF_ERROR(CheckFiles(dir));
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
    fs::path models_dir, Database& database) {
  RETURN_IF_ERROR(MakeFolders(models_dir));
  auto registry = std::unique_ptr<ModelRegistry>(
      new ModelRegistry(std::move(models_dir), database));
  const std::vector<Key> versions = registry->VersionsOnDisk();
  bool is_first = true;
  RETURN_IF_ERROR(database.Query("SELECT 1 FROM milestones WHERE name = ?",
                                 {kTakenIn},
                                 [&](const Row&) { is_first = false; }));
  if (is_first) RETURN_IF_ERROR(registry->TakeIn(versions));
  RETURN_IF_ERROR(registry->ReadRows());
  registry->RemoveStrangers(versions);
  return registry;
}

absl::Status ModelRegistry::ReadRows() {
  const MutexLock lock(mu_);
  RETURN_IF_ERROR(database_.Query(
      "SELECT name, version, record FROM models", {}, [&](const Row& row) {
        v1::Model model;
        if (model.ParseFromString(row.Bytes(2))) {
          models_[{row.Bytes(0), row.Integer(1)}] = std::move(model);
        }
      }));
  std::erase_if(models_, [this](const auto& entry) {
    const absl::Status files = CheckFiles(DirOf(entry.second.ref()));
    if (!files.ok()) spdlog::error("not served: {}", files.ToString());
    return !files.ok();
  });
  RETURN_IF_ERROR(
      database_.Query("SELECT name, version FROM promotions ORDER BY ordinal",
                      {}, [&](const Row& row) {
                        promoted_.emplace_back(row.Bytes(0), row.Integer(1));
                      }));
  std::erase_if(promoted_,
                [this](const Key& key) { return !models_.contains(key); });
  return absl::OkStatus();
}

std::vector<int64_t> ModelRegistry::VersionsOf(const std::string& name) const {
  std::vector<int64_t> versions;
  std::error_code ignored;  // No folder, no version.
  for (const auto& entry :
       fs::directory_iterator(models_dir_ / name, ignored)) {
    int64_t version = 0;
    if (absl::SimpleAtoi(entry.path().filename().native(), &version)) {
      versions.push_back(version);
    }
  }
  return versions;
}

std::vector<ModelRegistry::Key> ModelRegistry::VersionsOnDisk() const {
  std::vector<Key> found;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(models_dir_, ignored)) {
    const std::string name = entry.path().filename();
    for (const int64_t version : VersionsOf(name)) {
      found.emplace_back(name, version);
    }
  }
  std::sort(found.begin(), found.end());
  return found;
}

absl::Status ModelRegistry::TakeIn(const std::vector<Key>& versions) {
  return database_.Commit([&](Transaction& transaction) -> absl::Status {
    for (const auto& [name, version] : versions) {
      v1::ModelRef ref;
      ref.set_name(name);
      ref.set_version(version);
      absl::StatusOr<v1::Model> model = ReadModelFile(DirOf(ref));
      if (!model.ok()) {
        spdlog::warn("set aside: {}", model.status().ToString());
        const fs::path dir = DirOf(ref);
        RETURN_IF_ERROR(RenameDurably(dir, dir.native() + ".unreadable"));
        continue;
      }
      *model->mutable_ref() = ref;
      spdlog::info("the database is new; taking in {}", NameOf(ref));
      RETURN_IF_ERROR(Insert(*model, /*promote=*/true, transaction));
    }
    return transaction.Run("INSERT INTO milestones (name) VALUES (?)",
                           {kTakenIn});
  });
}

void ModelRegistry::RemoveStrangers(const std::vector<Key>& versions) {
  for (const auto& [name, version] : versions) {
    bool known = false;
    const absl::Status asked =
        database_.Query("SELECT 1 FROM models WHERE name = ? AND version = ?",
                        {name, version}, [&](const Row&) { known = true; });
    if (known || !asked.ok()) continue;
    v1::Model stranger;
    stranger.mutable_ref()->set_name(name);
    stranger.mutable_ref()->set_version(version);
    Discard(stranger);
  }
}

absl::StatusOr<v1::Model> ModelRegistry::Stage(const std::string& name,
                                               const fs::path& staging) {
  ASSIGN_OR_RETURN(v1::Model model, ReadModelFile(staging));
  const MutexLock lock(stage_mu_);
  ASSIGN_OR_RETURN(const int64_t version, NextVersion(name));
  model.mutable_ref()->set_name(name);
  model.mutable_ref()->set_version(version);
  RETURN_IF_ERROR(WriteModelFile(staging, model));
  RETURN_IF_ERROR(MakeFolders(models_dir_ / name));
  RETURN_IF_ERROR(RenameDurably(staging, DirOf(model.ref())));
  return model;
}

// Past every row and folder, served or not: a version is never used twice.
absl::StatusOr<int64_t> ModelRegistry::NextVersion(
    const std::string& name) const {
  int64_t last = 0;
  RETURN_IF_ERROR(
      database_.Query("SELECT MAX(version) FROM models WHERE name = ?", {name},
                      [&](const Row& row) { last = row.Integer(0); }));
  for (const int64_t version : VersionsOf(name)) last = std::max(last, version);
  return last + 1;
}

absl::Status ModelRegistry::Insert(const v1::Model& model, bool promote,
                                   Transaction& transaction) const {
  const v1::ModelRef& ref = model.ref();
  RETURN_IF_ERROR(transaction.Run(
      "INSERT INTO models (name, version, record) VALUES (?, ?, ?)",
      {ref.name(), ref.version(), Blob{model.SerializeAsString()}}));
  if (!promote) return absl::OkStatus();
  return transaction.Run(
      "REPLACE INTO promotions (name, version, ordinal) VALUES (?, ?, "
      "(SELECT COALESCE(MAX(ordinal), 0) + 1 FROM promotions))",
      {ref.name(), ref.version()});
}

void ModelRegistry::Adopt(const v1::Model& model, bool promote) {
  const Key key(model.ref().name(), model.ref().version());
  const MutexLock lock(mu_);
  models_[key] = model;
  if (!promote) return;
  std::erase_if(promoted_,
                [&](const Key& other) { return other.first == key.first; });
  promoted_.push_back(key);
}

void ModelRegistry::Discard(const v1::Model& model) const {
  const fs::path dir = DirOf(model.ref());
  std::error_code error;
  fs::remove_all(dir, error);
  if (error) spdlog::warn("remove {}: {}", dir.native(), error.message());
  fs::remove(dir.parent_path(), error);  // Stays where it is not empty.
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

std::vector<v1::Model> ModelRegistry::All() const {
  const MutexLock lock(mu_);
  std::vector<v1::Model> all;
  all.reserve(models_.size());
  for (const auto& [key, model] : models_) all.push_back(model);
  return all;
}

fs::path ModelRegistry::DirOf(const v1::ModelRef& ref) const {
  return models_dir_ / ref.name() / std::to_string(ref.version());
}

}  // namespace finetune
