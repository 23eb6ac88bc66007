// Uploaded data sets: a folder each, <dir>/<sha256 of the archive>/, and a row
// of the state database, which alone makes it count.

#ifndef SERVER_DATASETS_DATASET_STORE_H_
#define SERVER_DATASETS_DATASET_STORE_H_

#include <cstdint>
#include <deque>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/mutex.h"
#include "finetune/v1/dataset.pb.h"
#include "server/datasets/archive_unpacker.h"
#include "server/datasets/upload.h"
#include "server/state/database.h"

namespace finetune {

// Whether it is 64 lower-case hex digits.
bool IsDatasetId(absl::string_view id);

// Thread-safe. No call takes long, however large a data set is: unpacking and
// the removal of files have threads of their own.
class DatasetStore {
 public:
  struct Options {
    std::filesystem::path dir;  // Created if absent. This store's alone.
    UnpackLimits limits;        // Of one data set.
    uint64_t max_total_bytes = uint64_t{256} << 30;  // Of all, unpacked.
    size_t max_datasets = 10'000;
    absl::Duration idle_timeout = absl::Seconds(60);  // See Upload.
  };

  struct Page {
    std::vector<v1::Dataset> datasets;
    std::string next_page_token;  // Empty after the last page.
  };

  // Begins to remove what uploads and deletions left that a crash broke off.
  // `database` must outlive the store.
  static absl::StatusOr<std::unique_ptr<DatasetStore>> Open(Options options,
                                                            Database& database);

  // All uploads must have been destroyed. Files still to be removed are left
  // to the next Open.
  ~DatasetStore();

  DatasetStore(const DatasetStore&) = delete;
  DatasetStore& operator=(const DatasetStore&) = delete;

  // NOT_FOUND with ResourceInfo.
  absl::StatusOr<v1::Dataset> Find(absl::string_view id);

  // Newest first, at most `page_size` >= 1 of them; the first ones for an empty
  // token. INVALID_ARGUMENT with BadRequest if the token is not one of ours.
  absl::StatusOr<Page> List(int page_size, absl::string_view page_token);

  // Where the data set is, if there is one of that id.
  std::filesystem::path PathOf(absl::string_view id) const;

  // Begins to take an archive. Where several of the same archive go on, or it
  // is here already, all end with the one that was first.
  //
  // RESOURCE_EXHAUSTED if the store is full. The upload may also end so.
  absl::StatusOr<std::unique_ptr<Upload>> BeginUpload(
      const std::string& name, const std::string& sha256,
      Upload::Callbacks callbacks) ABSL_LOCKS_EXCLUDED(change_mu_);

  // The data set is gone when this returns; its disk space soon after.
  //
  // NOT_FOUND with ResourceInfo; FAILED_PRECONDITION with PreconditionFailure
  // if a job that has not ended needs it.
  absl::Status Delete(const std::string& id) ABSL_LOCKS_EXCLUDED(change_mu_);

 private:
  DatasetStore(Options options, Database& database);

  absl::Status LoadTotals() ABSL_LOCKS_EXCLUDED(change_mu_);
  absl::Status DiscardLeftovers();
  absl::StatusOr<v1::Dataset> Publish(const std::filesystem::path& content,
                                      const v1::Dataset& dataset)
      ABSL_LOCKS_EXCLUDED(change_mu_);
  absl::Status CheckRoom(uint64_t bytes) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(change_mu_);
  absl::Status Insert(const v1::Dataset& dataset);
  absl::Status DeleteRow(const std::string& id, v1::Dataset& deleted);

  // Takes the folder away at once, and leaves its removal to the sweeper.
  absl::Status Discard(const std::filesystem::path& path)
      ABSL_LOCKS_EXCLUDED(sweep_mu_);
  void Sweep() ABSL_LOCKS_EXCLUDED(sweep_mu_);
  // Entry by entry, so that an end of the server need not wait for all of them:
  // false if it has come.
  bool RemoveTrash(const std::filesystem::path& path)
      ABSL_LOCKS_EXCLUDED(sweep_mu_);

  const Options options_;
  Database& database_;

  Mutex change_mu_;  // Held while folders and rows come and go together.
  uint64_t total_bytes_ ABSL_GUARDED_BY(change_mu_) = 0;
  size_t datasets_ ABSL_GUARDED_BY(change_mu_) = 0;

  Mutex sweep_mu_;
  std::deque<std::filesystem::path> trash_ ABSL_GUARDED_BY(sweep_mu_);
  bool closing_ ABSL_GUARDED_BY(sweep_mu_) = false;

  std::jthread sweeper_;  // Last: starts when all above exists.
};

}  // namespace finetune

#endif  // SERVER_DATASETS_DATASET_STORE_H_
