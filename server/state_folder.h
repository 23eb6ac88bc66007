// The state folder, opened by one server: what survives it.

#ifndef SERVER_STATE_FOLDER_H_
#define SERVER_STATE_FOLDER_H_

#include <filesystem>
#include <memory>

#include "absl/status/statusor.h"
#include "server/datasets/dataset_store.h"
#include "server/jobs/job_store.h"
#include "server/model/registry.h"
#include "server/state/database.h"

namespace finetune {

struct StateLimits {
  uint64_t max_bytes = 0;         // Of all that is kept; 0: no limit.
  uint64_t max_upload_bytes = 0;  // Of one data set; 0: as UnpackLimits.
};

class StateFolder {
 public:
  // Creates what is absent, removes what a crash left half done, and moves what
  // the database does not know to lost+found.
  // FAILED_PRECONDITION if another server uses the folder, until this dies.
  static absl::StatusOr<std::unique_ptr<StateFolder>> Open(
      const std::filesystem::path& path, const StateLimits& limits = {});

  // RESOURCE_EXHAUSTED if jobs and models take `max_bytes` or more; what comes
  // as a data set, its store checks.
  absl::Status CheckRoom() const;

  std::filesystem::path jobs_dir() const { return path_ / "jobs"; }
  JobStore& jobs() { return *jobs_; }
  ModelRegistry& models() { return *models_; }
  DatasetStore& datasets() { return *datasets_; }

 private:
  class Lock;

  StateFolder(std::filesystem::path path, const StateLimits& limits)
      : path_(std::move(path)), limits_(limits) {}

  const std::filesystem::path path_;
  const StateLimits limits_;
  std::shared_ptr<Lock> lock_;
  std::unique_ptr<Database> database_;
  std::unique_ptr<JobStore> jobs_;
  std::unique_ptr<ModelRegistry> models_;
  std::unique_ptr<DatasetStore> datasets_;
};

}  // namespace finetune

#endif  // SERVER_STATE_FOLDER_H_
