// The published models, and which version of each name is served.
//
//   models/<name>/<version>/{model.json, weights.safetensors}
//
// A version appears on disk by a rename and never changes. It exists when its
// row in the database does: one that was being published in a crash is gone
// after it.

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
#include "common/mutex.h"
#include "finetune/v1/model.pb.h"
#include "server/state/database.h"

namespace finetune {

// The files of a version.
inline constexpr char kModelFile[] = "model.json";
inline constexpr char kWeightsFile[] = "weights.safetensors";

// Writes `dir`/model.json, protobuf's JSON of `model`.
absl::Status WriteModelFile(const std::filesystem::path& dir,
                            const v1::Model& model);

// Thread-safe.
class ModelRegistry {
 public:
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
  void Adopt(const v1::Model& model, bool promote) ABSL_LOCKS_EXCLUDED(mu_);
  // Discard removes a staged model instead.
  void Discard(const v1::Model& model) const;

  // The model that `ref` means: without a version the promoted one, without a
  // name the one promoted last.
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

  absl::Status ReadRows() ABSL_LOCKS_EXCLUDED(mu_);
  std::vector<int64_t> VersionsOf(const std::string& name) const;
  std::vector<Key> VersionsOnDisk() const;
  absl::Status TakeIn(const std::vector<Key>& versions);
  void RemoveStrangers(const std::vector<Key>& versions)
      ABSL_LOCKS_EXCLUDED(mu_);
  absl::StatusOr<int64_t> NextVersion(const std::string& name) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(stage_mu_);

  const std::filesystem::path models_dir_;
  Database& database_;
  Mutex stage_mu_;  // Apart, since the disk is slow and Resolve must not be.
  mutable Mutex mu_;
  std::map<Key, v1::Model> models_ ABSL_GUARDED_BY(mu_);
  std::vector<Key> promoted_ ABSL_GUARDED_BY(mu_);  // One a name, latest last.
};

}  // namespace finetune

#endif  // SERVER_MODEL_REGISTRY_H_
