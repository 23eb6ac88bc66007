// One call of DownloadModel.

#ifndef SERVER_SERVICE_DOWNLOAD_REACTOR_H_
#define SERVER_SERVICE_DOWNLOAD_REACTOR_H_

#include <atomic>
#include <filesystem>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/mutex.h"
#include "common/sha256.h"
#include "finetune/v1/model_service.pb.h"
#include "grpcpp/alarm.h"
#include "grpcpp/grpcpp.h"

namespace finetune {

// Sends a file a chunk at a time; the next one is read when the last is gone,
// so that a slow reader costs one chunk. Deletes itself when the call is over.
class DownloadReactor final
    : public grpc::ServerWriteReactor<v1::DownloadModelResponse> {
 public:
  // `downloads` counts those that go on, this one included; it must outlive the
  // gRPC server.
  DownloadReactor(grpc::CallbackServerContext& context,
                  std::atomic<int>& downloads, absl::Duration timeout);

  // One of these, once, on any thread. Send sends `file`, which is of `ref`, or
  // ends the call with its error. Where the file's digest is not `sha256`, the
  // call ends with DATA_LOSS; empty: any will do.
  void Send(const v1::ModelRef& ref,
            const absl::StatusOr<std::filesystem::path>& file,
            const std::string& sha256);
  void End(const absl::Status& status);

  void OnWriteDone(bool ok) override;
  void OnDone() override ABSL_LOCKS_EXCLUDED(mu_);

 private:
  ~DownloadReactor() override;

  absl::Status Open(const std::filesystem::path& file);
  void SendNext();
  absl::StatusOr<bool> ReadChunk();  // Whether there was one.
  void OnTimeout(bool expired) ABSL_LOCKS_EXCLUDED(mu_);
  void Release();

  grpc::CallbackServerContext& context_;
  std::atomic<int>& downloads_;
  int file_ = -1;
  std::string expected_sha256_;
  Sha256 sha256_;
  v1::DownloadModelResponse response_;  // Belongs to the write that goes on.

  Mutex mu_;
  bool done_ ABSL_GUARDED_BY(mu_) = false;  // The context is gone.
  grpc::Alarm alarm_;
  std::atomic<int> users_ = 2;  // The call, and the alarm until it was called.
};

}  // namespace finetune

#endif  // SERVER_SERVICE_DOWNLOAD_REACTOR_H_
