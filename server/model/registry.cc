#include "server/model/registry.h"

#include <algorithm>
#include <functional>
#include <system_error>
#include <tuple>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"
#include "common/file.h"
#include "common/rpc_status.h"
#include "common/status_macros.h"
#include "spdlog/spdlog.h"

namespace finetune {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxPageBytes = 1 << 20;

absl::Status NoSuchModelError(const v1::ModelRef& ref) {
  return NoSuchResourceError("model", ModelRefText(ref));
}

// Where a model comes in a list: time of creation in us, name, version. A page
// token is the place of the page's last model, written "TIME/NAME/VERSION", so
// that models that come and go between two pages change nothing else.
using Place = std::tuple<int64_t, std::string, int64_t>;

Place PlaceOf(const v1::Model& model) {
  const auto& time = model.create_time();
  return {time.seconds() * 1'000'000 + time.nanos() / 1000, model.ref().name(),
          model.ref().version()};
}

std::string ToToken(const Place& place) {
  const auto& [time, name, version] = place;
  return absl::StrCat(time, "/", name, "/", version);
}

absl::StatusOr<Place> ParseToken(absl::string_view token) {
  const std::vector<std::string> parts = absl::StrSplit(token, '/');
  int64_t time = 0, version = 0;
  if (parts.size() != 3 || !absl::SimpleAtoi(parts[0], &time) ||
      !absl::SimpleAtoi(parts[2], &version)) {
    return InvalidFieldError("page_token", "one that this server gave");
  }
  return Place(time, parts[1], version);
}

}  // namespace

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

// Past every row and folder, served, deleted or not: a version is never used
// twice.
absl::StatusOr<int64_t> ModelRegistry::NextVersion(
    const std::string& name) const {
  int64_t last = 0;
  RETURN_IF_ERROR(database_.Query(
      "SELECT MAX(version) FROM (SELECT version FROM models WHERE name = ? "
      "UNION ALL SELECT version FROM deleted_models WHERE name = ?)",
      {name, name}, [&](const Row& row) { last = row.Integer(0); }));
  for (const int64_t version : VersionsOf(name)) last = std::max(last, version);
  return last + 1;
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

absl::Status ModelRegistry::Insert(const v1::Model& model, bool promote,
                                   Transaction& transaction) const {
  v1::Model record = model;
  record.clear_promoted();
  RETURN_IF_ERROR(transaction.Run(
      "INSERT INTO models (name, version, record) VALUES (?, ?, ?)",
      {model.ref().name(), model.ref().version(),
       Blob{record.SerializeAsString()}}));
  if (!promote) return absl::OkStatus();
  return InsertPromotion(model.ref(), transaction);
}

absl::Status ModelRegistry::InsertPromotion(const v1::ModelRef& ref,
                                            Transaction& transaction) {
  return transaction.Run(
      "REPLACE INTO promotions (name, version, ordinal) VALUES (?, ?, "
      "(SELECT COALESCE(MAX(ordinal), 0) + 1 FROM promotions))",
      {ref.name(), ref.version()});
}

void ModelRegistry::Adopt(const v1::Model& model, bool promote) {
  const std::string& name = model.ref().name();
  const MutexLock change(change_mu_);
  absl::StatusOr<Promotion> promotion = absl::NotFoundError("not promoted");
  if (promote) {
    promotion = ReadPromotion(name);
    if (!promotion.ok()) {
      spdlog::error("not served before the next start: {}: {}",
                    ModelRefText(model.ref()), promotion.status().ToString());
    }
  }
  {
    const MutexLock lock(mu_);
    v1::Model& known = models_[{name, model.ref().version()}];
    known = model;
    known.clear_promoted();
    if (promotion.ok() && models_.contains({name, promotion->version})) {
      promoted_[name] = *promotion;
    }
  }
  if (promote) WritePromotions();
}

absl::StatusOr<ModelRegistry::Promotion> ModelRegistry::ReadPromotion(
    const std::string& name) {
  absl::StatusOr<Promotion> promotion = absl::NotFoundError("no promotion");
  RETURN_IF_ERROR(
      database_.Query("SELECT version, ordinal FROM promotions WHERE name = ?",
                      {name}, [&](const Row& row) {
                        promotion = Promotion{row.Integer(0), row.Integer(1)};
                      }));
  return promotion;
}

absl::StatusOr<v1::Model> ModelRegistry::Promote(const v1::ModelRef& ref) {
  RETURN_IF_ERROR(Resolve(ref).status());
  RETURN_IF_ERROR(
      database_.Commit([&](Transaction& transaction) -> absl::Status {
        bool exists = false;  // Still.
        RETURN_IF_ERROR(transaction.Run(
            "SELECT 1 FROM models WHERE name = ? AND version = ?",
            {ref.name(), ref.version()}, [&](const Row&) { exists = true; }));
        if (!exists) return NoSuchModelError(ref);
        return InsertPromotion(ref, transaction);
      }));
  const MutexLock change(change_mu_);
  ASSIGN_OR_RETURN(const Promotion promotion, ReadPromotion(ref.name()));
  {
    const MutexLock lock(mu_);
    // One that is being published is seen with its own adoption.
    if (models_.contains({ref.name(), promotion.version})) {
      promoted_[ref.name()] = promotion;
    }
  }
  WritePromotions();
  const MutexLock lock(mu_);
  const auto it = models_.find({ref.name(), ref.version()});
  if (it == models_.end()) return NoSuchModelError(ref);
  return Copy(it->second);
}

absl::Status ModelRegistry::Delete(const v1::ModelRef& ref) {
  RETURN_IF_ERROR(DeleteRow(ref));
  {
    const MutexLock lock(mu_);
    models_.erase({ref.name(), ref.version()});
  }
  const MutexLock lock(stage_mu_);
  RemoveFiles(ref);
  return absl::OkStatus();
}

absl::Status ModelRegistry::DeleteRow(const v1::ModelRef& ref) {
  return database_.Commit([&](Transaction& transaction) -> absl::Status {
    bool exists = false, promoted = false;
    RETURN_IF_ERROR(transaction.Run(
        "SELECT promotions.version FROM models LEFT JOIN promotions "
        "USING (name, version) WHERE models.name = ? AND models.version = ?",
        {ref.name(), ref.version()}, [&](const Row& row) {
          exists = true;
          promoted = row.Integer(0) != 0;
        }));
    if (!exists) return NoSuchModelError(ref);
    if (promoted) {
      return PreconditionError(
          "MODEL", ModelRefText(ref),
          absl::StrCat(ModelRefText(ref),
                       " is promoted: promote another version first"));
    }
    RETURN_IF_ERROR(
        transaction.Run("DELETE FROM models WHERE name = ? AND version = ?",
                        {ref.name(), ref.version()}));
    return transaction.Run(
        "INSERT INTO deleted_models (name, version) VALUES (?, ?) ON CONFLICT "
        "(name) DO UPDATE SET version = MAX(version, excluded.version)",
        {ref.name(), ref.version()});
  });
}

void ModelRegistry::Discard(const v1::Model& model) {
  const MutexLock lock(stage_mu_);
  RemoveFiles(model.ref());
}

void ModelRegistry::RemoveFiles(const v1::ModelRef& ref) {
  const fs::path dir = DirOf(ref);
  std::error_code error;
  fs::remove_all(dir, error);
  if (error) spdlog::warn("remove {}: {}", dir.native(), error.message());
  fs::remove(dir.parent_path(), error);  // Stays where it is not empty.
}

absl::StatusOr<ModelRegistry::Page> ModelRegistry::List(
    absl::string_view name, int page_size, absl::string_view page_token) const {
  absl::StatusOr<Place> before = absl::NotFoundError("the first page");
  if (!page_token.empty()) {
    before = ParseToken(page_token);
    RETURN_IF_ERROR(before.status());
  }
  const MutexLock lock(mu_);
  std::vector<std::pair<Place, const v1::Model*>> places;
  for (const auto& [key, model] : models_) {
    if (!name.empty() && key.first != name) continue;
    Place place = PlaceOf(model);
    if (!before.ok() || place < *before) places.emplace_back(place, &model);
  }
  std::sort(places.begin(), places.end(), std::greater<>());
  Page page;
  size_t bytes = 0;
  for (const auto& [place, model] : places) {
    bytes += model->ByteSizeLong();
    if (page.models.size() == static_cast<size_t>(page_size) ||
        (!page.models.empty() && bytes > kMaxPageBytes)) {
      page.next_page_token = ToToken(PlaceOf(page.models.back()));
      break;
    }
    page.models.push_back(Copy(*model));
  }
  return page;
}

absl::StatusOr<v1::Model> ModelRegistry::Resolve(
    const v1::ModelRef& ref) const {
  const MutexLock lock(mu_);
  Key key(ref.name(), ref.version());
  if (ref.name().empty()) {
    const auto latest = std::max_element(
        promoted_.begin(), promoted_.end(), [](const auto& a, const auto& b) {
          return a.second.ordinal < b.second.ordinal;
        });
    if (latest == promoted_.end()) {
      return PreconditionError(
          "MODEL", "", "no model has been promoted yet: fine-tune one first");
    }
    key = {latest->first, latest->second.version};
  } else if (ref.version() == 0) {
    const auto it = promoted_.find(ref.name());
    if (it != promoted_.end()) key.second = it->second.version;
  }
  const auto it = models_.find(key);
  if (it == models_.end()) return NoSuchModelError(ref);
  return Copy(it->second);
}

v1::Model ModelRegistry::Copy(const v1::Model& model) const {
  v1::Model copy = model;
  const auto it = promoted_.find(model.ref().name());
  copy.set_promoted(it != promoted_.end() &&
                    it->second.version == model.ref().version());
  return copy;
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
