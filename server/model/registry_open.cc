// What the registry does at the start: rows, folders, and what a crash left.

#include <algorithm>
#include <system_error>
#include <utility>

#include "common/file.h"
#include "common/status_macros.h"
#include "server/model/registry.h"
#include "spdlog/spdlog.h"

namespace finetune {
namespace {

namespace fs = std::filesystem;

constexpr char kTakenIn[] = "models taken in";

}  // namespace

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
    const absl::Status files = CheckModelFiles(DirOf(entry.second.ref()));
    if (!files.ok()) spdlog::error("not served: {}", files.ToString());
    return !files.ok();
  });
  return database_.Query(
      "SELECT name, version, ordinal FROM promotions", {}, [&](const Row& row) {
        if (!models_.contains({row.Bytes(0), row.Integer(1)})) return;
        promoted_[row.Bytes(0)] = {row.Integer(1), row.Integer(2)};
      });
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
      spdlog::info("the database is new; taking in {}", ModelRefText(ref));
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
    v1::ModelRef stranger;
    stranger.set_name(name);
    stranger.set_version(version);
    const MutexLock lock(stage_mu_);
    RemoveFiles(stranger);
  }
}

}  // namespace finetune
