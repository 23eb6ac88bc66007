// One archive on its way in.

#ifndef SERVER_DATASETS_UPLOAD_H_
#define SERVER_DATASETS_UPLOAD_H_

#include <cstdint>
#include <deque>
#include <filesystem>
#include <functional>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/mutex.h"
#include "common/sha256.h"
#include "finetune/v1/dataset.pb.h"
#include "server/datasets/archive_unpacker.h"

namespace finetune {

// Unpacks on a thread of its own into a quarantine folder, which it removes
// however it ends. Few chunks wait in between, so that who hands them over
// learns when to stop reading: no call blocks, but for the destructor, and that
// one only before the end was told.
//
// Thread-safe.
class Upload {
 public:
  // Called on the upload's thread, without locks held. They may call what is
  // here, but not destroy it.
  struct Callbacks {
    // After Add returned false: there is room again.
    std::function<void()> on_room;
    // Once, at the end; nothing is called after it.
    std::function<void(absl::StatusOr<v1::Dataset>)> on_end;
  };

  struct Options {
    std::filesystem::path incoming;  // Where the quarantine is made.
    std::string name;                // For people.
    std::string sha256;              // Of the archive, lower case.
    UnpackLimits limits;             // `max_total_bytes` also of the archive.
    absl::Duration idle_timeout;     // Between two chunks.
  };

  // Takes over the folder of a data set that was checked and is on disk.
  using PublishFn = std::function<absl::StatusOr<v1::Dataset>(
      const std::filesystem::path& dir, const v1::Dataset& dataset)>;

  // Ends with the data set as `publish` returns it, or with
  //   INVALID_ARGUMENT    as UnpackArchive, or the checksum is another;
  //   FAILED_PRECONDITION the archive holds no data set;
  //   RESOURCE_EXHAUSTED  as UnpackArchive;
  //   DEADLINE_EXCEEDED   no chunk came for `idle_timeout`;
  //   or the status given to Cancel.
  Upload(Options options, Callbacks callbacks, PublishFn publish);

  // As Cancel; waits for the end.
  ~Upload();

  Upload(const Upload&) = delete;
  Upload& operator=(const Upload&) = delete;

  // The archive's next bytes, at least one. Where it returns false, on_room or
  // on_end will be called; hand over no more before.
  bool Add(std::string chunk) ABSL_LOCKS_EXCLUDED(mu_);

  // That was all of it.
  void Finish() ABSL_LOCKS_EXCLUDED(mu_);

  // Ends the upload with `why`, if it has not ended yet. The first one counts.
  void Cancel(absl::Status why) ABSL_LOCKS_EXCLUDED(mu_);

 private:
  void Run();
  absl::StatusOr<v1::Dataset> Receive(const std::filesystem::path& quarantine);

  // The archive's bytes, as ReadFn; hashed on the way.
  absl::StatusOr<absl::string_view> NextChunk() ABSL_LOCKS_EXCLUDED(mu_);

  absl::Status CheckSha256();

  const Options options_;
  const Callbacks callbacks_;
  const PublishFn publish_;

  // Of the thread alone.
  std::string chunk_;
  Sha256 sha256_;
  uint64_t received_ = 0;

  Mutex mu_;
  std::deque<std::string> waiting_ ABSL_GUARDED_BY(mu_);
  bool wants_room_ ABSL_GUARDED_BY(mu_) = false;
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
  absl::Status cancelled_ ABSL_GUARDED_BY(mu_);

  std::jthread thread_;  // Last: starts when all above exists.
};

}  // namespace finetune

#endif  // SERVER_DATASETS_UPLOAD_H_
