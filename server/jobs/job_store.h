// What is known of each job, on disk, and who is told when it changes.
//
// A job is the contract's own message, v1::FineTuneJob: one vocabulary from
// the trainer's events to the wire and to the disk, and nothing to keep in
// step.

#ifndef SERVER_JOBS_JOB_STORE_H_
#define SERVER_JOBS_JOB_STORE_H_

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/mutex.h"
#include "finetune/v1/training_service.pb.h"
#include "server/state/database.h"

namespace finetune {

// SUCCEEDED, FAILED or CANCELLED: the job has ended, until it is resumed.
bool IsTerminal(v1::JobState state);

// Where a job came from: kept with it, not shown to callers.
struct JobOrigin {
  std::filesystem::path dataset_dir;
  std::string dataset_id;      // Of an uploaded data set; else empty.
  std::string request_id;      // May be empty.
  std::string request_sha256;  // Of the request, where it has an id.
};

struct JobPage {
  std::vector<v1::FineTuneJob> jobs;  // Newest first.
  std::string next_token;             // Empty after the last page.
};

// Thread-safe; no call waits for training, some for the disk.
class JobStore {
 public:
  using Snapshot = std::shared_ptr<const v1::WatchProgressResponse>;

  // Told of a job's changes one after another, on whichever thread made them
  // and with the store locked: must not block, nor call the store. Null: there
  // will be no more, see EndWatches.
  using WatchFn = std::function<void(const Snapshot&)>;

  // Changes the job, or refuses to with an error, which leaves it as it was.
  using ChangeFn = std::function<absl::Status(v1::FineTuneJob&)>;

  // What another room changes in the same transaction: `write` on disk, then
  // `apply` in memory, before anyone hears of the job's change.
  struct Joint {
    std::function<absl::Status(Transaction&)> write;
    std::function<void()> apply;
  };

  // Reads the jobs that have not ended. `database` must outlive this.
  static absl::StatusOr<std::unique_ptr<JobStore>> Open(Database& database);

  // Returns the job that was added, once it is on disk. NOT_FOUND if its
  // uploaded data set is gone.
  //
  // REQUIRES: job.job_id() is new and sorts after those before; FindRequest
  // finds nothing.
  absl::StatusOr<v1::FineTuneJob> Add(v1::FineTuneJob job,
                                      const JobOrigin& origin)
      ABSL_LOCKS_EXCLUDED(mu_);

  // The job of an earlier request with this request_id. NOT_FOUND if there is
  // none; ALREADY_EXISTS if that request was another.
  absl::StatusOr<v1::FineTuneJob> FindRequest(const JobOrigin& origin) const
      ABSL_LOCKS_EXCLUDED(mu_);

  // NOT_FOUND with ResourceInfo.
  absl::StatusOr<v1::FineTuneJob> Get(const std::string& job_id) const
      ABSL_LOCKS_EXCLUDED(mu_);
  absl::StatusOr<std::filesystem::path> DatasetDirOf(
      const std::string& job_id) const;

  // Jobs in one of `states`, or all if empty, after the page of `token`; fewer
  // than `page_size` where they would be more than 3 MiB.
  // REQUIRES: page_size >= 1.
  absl::StatusOr<JobPage> List(const std::vector<v1::JobState>& states,
                               int page_size, const std::string& token) const
      ABSL_LOCKS_EXCLUDED(mu_);

  // How many jobs are on record, by state. Empty where the disk refuses.
  std::map<v1::JobState, int64_t> CountByState() const ABSL_LOCKS_EXCLUDED(mu_);

  // Ids of the jobs that have not ended, in the order of their tickets.
  absl::StatusOr<std::vector<std::string>> Unfinished() const;

  // Three ways to change a job and tell its watchers; all return NOT_FOUND for
  // an unknown job and what `change` refuses with.
  //
  // Commit: on disk when it returns OK; unchanged when it does not. A job that
  // was resumed, from terminal to QUEUED, gets the queue's last ticket.
  absl::Status Commit(const std::string& job_id, const ChangeFn& change,
                      const Joint& joint = {}) ABSL_LOCKS_EXCLUDED(mu_);

  // Record: the same, but where the disk refuses, the change is kept in memory
  // and written with the next one: for what has happened anyway.
  absl::Status Record(const std::string& job_id, const ChangeFn& change)
      ABSL_LOCKS_EXCLUDED(mu_);

  // Report: in memory only, for what the next epoch makes obsolete.
  absl::Status Report(const std::string& job_id, const ChangeFn& change)
      ABSL_LOCKS_EXCLUDED(mu_);

  // Calls `watch` for every change until Unwatch or the job's end, and at once
  // with the present state if its sequence is above `after_sequence` or it is
  // terminal. Returns the watch's id, or NOT_FOUND; UNAVAILABLE after
  // EndWatches.
  absl::StatusOr<uint64_t> Watch(const std::string& job_id,
                                 uint64_t after_sequence, WatchFn watch)
      ABSL_LOCKS_EXCLUDED(mu_);

  // When this returns, the watch's function neither runs nor will.
  void Unwatch(const std::string& job_id, uint64_t watch_id)
      ABSL_LOCKS_EXCLUDED(mu_);

  // Ends all watches, as the server does. Idempotent.
  void EndWatches() ABSL_LOCKS_EXCLUDED(mu_);

  // Forgets the oldest jobs that have ended, above `max_jobs`. Returns their
  // ids.
  absl::StatusOr<std::vector<std::string>> Trim(size_t max_jobs);

 private:
  // A job in memory: one that has not ended, or whose end is not on disk.
  struct Live {
    Snapshot latest;        // Replaced, never changed.
    uint64_t reserved = 0;  // Sequence numbers up to this are given out.
    bool dirty = false;     // `latest` holds what the disk refused.
    std::map<uint64_t, WatchFn> watches;
  };

  enum class Durability { kCommit, kRecord, kReport };

  explicit JobStore(Database& database) : database_(database) {}

  absl::Status Change(const std::string& job_id, const ChangeFn& change,
                      const Joint& joint, Durability durability)
      ABSL_LOCKS_EXCLUDED(mu_);
  void WriteDirty() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::StatusOr<Live*> LiveOf(const std::string& job_id)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::StatusOr<Snapshot> SnapshotOf(const std::string& job_id) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status Write(const v1::WatchProgressResponse& next, bool new_ticket,
                     const Joint& joint, Live& live)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  Database& database_;
  mutable Mutex mu_;  // Taken before the database's.
  bool watching_ended_ ABSL_GUARDED_BY(mu_) = false;
  uint64_t next_watch_ ABSL_GUARDED_BY(mu_) = 1;
  std::map<std::string, Live> live_ ABSL_GUARDED_BY(mu_);
};

}  // namespace finetune

#endif  // SERVER_JOBS_JOB_STORE_H_
