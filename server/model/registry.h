// The published models, and which version of each name is served.
//
//   models/<name>/<version>/{model.json, weights.safetensors}
//
// A version appears on disk by a rename and never changes. It exists when its
// row in the database does: one that was being published or deleted in a crash
// is gone after it. Promotions and deletions are on disk before they are seen.

#ifndef SERVER_MODEL_REGISTRY_H_
#define SERVER_MODEL_REGISTRY_H_

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/mutex.h"
#include "finetune/v1/model.pb.h"
#include "server/model/model_file.h"
#include "server/state/database.h"

namespace finetune {

// Thread-safe.
class ModelRegistry {
 public:
  struct Page {
    std::vector<v1::Model> models;
    std::string next_page_token;  // Empty after the last page.
  };

  // Reads the rows of `database`, which must outlive this, and removes folders
  // in `models_dir` that have none. A row whose files are damaged is logged and
  // not served. Where the database is new, what lies in the folders is taken
  // in, and the newest version of each name promoted; a version that cannot be
  // read is set aside as <version>.unreadable.
  static absl::StatusOr<std::unique_ptr<ModelRegistry>> Open(
      std::filesystem::path models_dir, Database& database);

  // Publishing, in steps, so that the model can be loaded before it is known,
  // and known in the transaction of the job that made it.
  //
  // Stage moves `staging`, a folder on the same file system that holds both
  // files, to the next version of `name`; nobody knows of it yet.
  absl::StatusOr<v1::Model> Stage(const std::string& name,
                                  const std::filesystem::path& staging)
      ABSL_LOCKS_EXCLUDED(stage_mu_);
  // Insert writes a staged model's row, and its promotion.
  absl::Status Insert(const v1::Model& model, bool promote,
                      Transaction& transaction) const;
  // Adopt makes known what the transaction committed.
  void Adopt(const v1::Model& model, bool promote)
      ABSL_LOCKS_EXCLUDED(change_mu_, mu_);
  // Discard removes a staged model instead.
  void Discard(const v1::Model& model) ABSL_LOCKS_EXCLUDED(stage_mu_);

  // Makes `ref`, a name and a version, the one that its name stands for, and
  // the name the default. Of several at once the last one wins. Idempotent.
  // Returns the model.
  //
  // NOT_FOUND with ResourceInfo.
  absl::StatusOr<v1::Model> Promote(const v1::ModelRef& ref)
      ABSL_LOCKS_EXCLUDED(change_mu_, mu_);

  // Removes `ref`, a name and a version, and then its files. Who has them open
  // can read on. Its number is not used again.
  //
  // NOT_FOUND with ResourceInfo; FAILED_PRECONDITION with PreconditionFailure
  // if it is promoted.
  absl::Status Delete(const v1::ModelRef& ref)
      ABSL_LOCKS_EXCLUDED(stage_mu_, mu_);

  // All versions, or those of `name` unless it is empty, newest first; at most
  // `page_size` >= 1 of them, and 1 MiB; the first ones for an empty token.
  //
  // INVALID_ARGUMENT with BadRequest if the token is not one of ours.
  absl::StatusOr<Page> List(absl::string_view name, int page_size,
                            absl::string_view page_token) const
      ABSL_LOCKS_EXCLUDED(mu_);

  // The model that `ref` means: without a version the promoted one, without a
  // name the one promoted last. This, as Promote and List, fills in `promoted`.
  //
  // FAILED_PRECONDITION if nothing has been promoted; NOT_FOUND with
  // ResourceInfo.
  absl::StatusOr<v1::Model> Resolve(const v1::ModelRef& ref) const
      ABSL_LOCKS_EXCLUDED(mu_);

  // All versions of all names.
  std::vector<v1::Model> All() const ABSL_LOCKS_EXCLUDED(mu_);

  // Where the files of `ref` are.
  std::filesystem::path DirOf(const v1::ModelRef& ref) const;

 private:
  using Key = std::pair<std::string, int64_t>;  // Name, version.

  ModelRegistry(std::filesystem::path models_dir, Database& database)
      : models_dir_(std::move(models_dir)), database_(database) {}

  struct Promotion {
    int64_t version;
    int64_t ordinal;  // The greatest of all names': the default.
  };

  // What Open does (registry_open.cc).
  absl::Status ReadRows() ABSL_LOCKS_EXCLUDED(mu_);
  std::vector<Key> VersionsOnDisk() const;
  absl::Status TakeIn(const std::vector<Key>& versions);
  void SetAsideUnknown(const std::vector<Key>& versions)
      ABSL_LOCKS_EXCLUDED(mu_);
  // In the order in which they were made.
  absl::StatusOr<std::vector<v1::ModelRef>> ReadPromotions() const;

  // Keeps models/PROMOTED true: what a new database takes the models in by.
  void WritePromotions() const ABSL_LOCKS_EXCLUDED(mu_);

  std::vector<int64_t> VersionsOf(const std::string& name) const;
  absl::StatusOr<int64_t> NextVersion(const std::string& name) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(stage_mu_);
  static absl::Status InsertPromotion(const v1::ModelRef& ref,
                                      Transaction& transaction);
  absl::Status DeleteRow(const v1::ModelRef& ref);
  absl::StatusOr<Promotion> ReadPromotion(const std::string& name)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(change_mu_);
  void RemoveFiles(const v1::ModelRef& ref)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(stage_mu_);
  v1::Model Copy(const v1::Model& model) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const std::filesystem::path models_dir_;
  Database& database_;
  Mutex stage_mu_;  // Held while folders come and go.
  // Held from the reading of a promotion until it is seen: what is read later
  // is newer. Taken before mu_, as is stage_mu_: the disk is slow, and Resolve
  // must not be.
  Mutex change_mu_;
  mutable Mutex mu_;
  std::map<Key, v1::Model> models_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, Promotion> promoted_ ABSL_GUARDED_BY(mu_);  // By name.
};

}  // namespace finetune

#endif  // SERVER_MODEL_REGISTRY_H_
