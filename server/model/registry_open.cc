// What the registry does at the start: rows, folders, and what a crash left.

#include <algorithm>
#include <set>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/file.h"
#include "common/status_macros.h"
#include "server/model/registry.h"
#include "server/state/set_aside.h"
#include "spdlog/spdlog.h"

namespace finetune {
namespace {

namespace fs = std::filesystem;

constexpr char kTakenIn[] = "models taken in";
constexpr char kPromotionsFile[] = "PROMOTED";
constexpr uint64_t kMaxPromotionBytes = 64 << 20;

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
  registry->SetAsideUnknown(versions);
  registry->WritePromotions();
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

// As they were promoted. Where nothing tells (folders that an older server
// left), the newest of each name is.
absl::Status ModelRegistry::TakeIn(const std::vector<Key>& versions) {
  const auto promotions = ReadPromotions();
  return database_.Commit([&](Transaction& transaction) -> absl::Status {
    std::set<Key> taken;
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
      RETURN_IF_ERROR(
          Insert(*model, /*promote=*/!promotions.ok(), transaction));
      taken.insert({name, version});
    }
    if (promotions.ok()) {
      for (const v1::ModelRef& ref : *promotions) {
        if (!taken.contains({ref.name(), ref.version()})) continue;
        RETURN_IF_ERROR(InsertPromotion(ref, transaction));
      }
    }
    return transaction.Run("INSERT INTO milestones (name) VALUES (?)",
                           {kTakenIn});
  });
}

void ModelRegistry::SetAsideUnknown(const std::vector<Key>& versions) {
  for (const auto& [name, version] : versions) {
    bool known = false;
    const absl::Status asked =
        database_.Query("SELECT 1 FROM models WHERE name = ? AND version = ?",
                        {name, version}, [&](const Row&) { known = true; });
    if (known || !asked.ok()) continue;
    v1::ModelRef unknown;
    unknown.set_name(name);
    unknown.set_version(version);
    const absl::Status moved =
        SetAside(DirOf(unknown), models_dir_.parent_path(),
                 "the database knows no such model");
    if (!moved.ok()) spdlog::error("set aside: {}", moved.ToString());
    std::error_code ignored;  // Stays where it is not empty.
    fs::remove(DirOf(unknown).parent_path(), ignored);
  }
}

absl::StatusOr<std::vector<v1::ModelRef>> ModelRegistry::ReadPromotions()
    const {
  ASSIGN_OR_RETURN(const std::string text,
                   ReadFile(models_dir_ / kPromotionsFile, kMaxPromotionBytes));
  std::vector<v1::ModelRef> promotions;
  for (const absl::string_view line :
       absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    const std::pair<absl::string_view, absl::string_view> words =
        absl::StrSplit(line, absl::MaxSplits(' ', 1));
    int64_t version = 0;
    if (!absl::SimpleAtoi(words.second, &version)) {
      return absl::DataLossError(
          absl::StrCat(kPromotionsFile, " has no version in a line"));
    }
    v1::ModelRef& ref = promotions.emplace_back();
    ref.set_name(std::string(words.first));
    ref.set_version(version);
  }
  return promotions;
}

void ModelRegistry::WritePromotions() const {
  std::vector<std::pair<int64_t, std::string>> lines;
  {
    const MutexLock lock(mu_);
    for (const auto& [name, promotion] : promoted_) {
      lines.emplace_back(promotion.ordinal,
                         absl::StrCat(name, " ", promotion.version, "\n"));
    }
  }
  std::sort(lines.begin(), lines.end());
  std::string text;
  for (const auto& [ordinal, line] : lines) text += line;
  const absl::Status written =
      WriteFileAtomically(models_dir_ / kPromotionsFile, text);
  if (!written.ok()) spdlog::warn("{}", written.ToString());
}

}  // namespace finetune
