// The state folder, opened by one server: what survives it.

#ifndef SERVER_STATE_FOLDER_H_
#define SERVER_STATE_FOLDER_H_

#include <filesystem>
#include <memory>

#include "absl/status/statusor.h"
#include "server/jobs/job_store.h"
#include "server/model/registry.h"
#include "server/state/database.h"

namespace finetune {

class StateFolder {
 public:
  // Creates what is absent, and removes what a crash left half done.
  // FAILED_PRECONDITION if another server uses the folder, until this dies.
  static absl::StatusOr<std::unique_ptr<StateFolder>> Open(
      const std::filesystem::path& path);

  // RESOURCE_EXHAUSTED if jobs and models take `max_bytes` or more; 0 is no
  // limit.
  absl::Status CheckRoom(uint64_t max_bytes) const;

  std::filesystem::path jobs_dir() const { return path_ / "jobs"; }
  JobStore& jobs() { return *jobs_; }
  ModelRegistry& models() { return *models_; }

 private:
  class Lock;

  explicit StateFolder(std::filesystem::path path) : path_(std::move(path)) {}

  const std::filesystem::path path_;
  std::shared_ptr<Lock> lock_;
  std::unique_ptr<Database> database_;
  std::unique_ptr<JobStore> jobs_;
  std::unique_ptr<ModelRegistry> models_;
};

}  // namespace finetune

#endif  // SERVER_STATE_FOLDER_H_
