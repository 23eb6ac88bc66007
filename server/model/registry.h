// The published models on disk, and which version of each name is served.
//
//   models/<name>/<version>/{model.json, weights.safetensors}
//   models/promotions.json    the promoted versions, the latest one last
//
// A version appears by a rename and never changes: whole or absent.

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
  // Reads what is in `models_dir`, which is created if absent. A version that
  // cannot be read is logged and left alone.
  static absl::StatusOr<std::unique_ptr<ModelRegistry>> Open(
      std::filesystem::path models_dir);

  // Moves `staging`, a folder on the same file system that holds both files,
  // to the next version of `name`. Not promoted yet.
  absl::StatusOr<v1::Model> Publish(const std::string& name,
                                    const std::filesystem::path& staging)
      ABSL_LOCKS_EXCLUDED(mu_);

  // Makes `ref` the version that its name stands for, and the default model.
  // Durable when it returns OK. NOT_FOUND if there is no such version.
  absl::Status Promote(const v1::ModelRef& ref) ABSL_LOCKS_EXCLUDED(mu_);

  // The model that `ref` means: without a version the promoted one, without a
  // name the one promoted last.
  //
  // FAILED_PRECONDITION if nothing has been promoted; NOT_FOUND with
  // ResourceInfo.
  absl::StatusOr<v1::Model> Resolve(const v1::ModelRef& ref) const
      ABSL_LOCKS_EXCLUDED(mu_);

  // Where the files of `ref` are.
  std::filesystem::path DirOf(const v1::ModelRef& ref) const;

 private:
  using Key = std::pair<std::string, int64_t>;  // Name, version.

  explicit ModelRegistry(std::filesystem::path models_dir)
      : models_dir_(std::move(models_dir)) {}

  void ReadVersions(const std::filesystem::path& name_dir);
  absl::Status ReadPromotions();
  absl::Status WritePromotions(const std::vector<Key>& promoted) const;
  int64_t NextVersion(const std::string& name) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const std::filesystem::path models_dir_;
  mutable Mutex mu_;
  std::map<Key, v1::Model> models_ ABSL_GUARDED_BY(mu_);
  std::vector<Key> promoted_ ABSL_GUARDED_BY(mu_);  // One a name.
};

}  // namespace finetune

#endif  // SERVER_MODEL_REGISTRY_H_
