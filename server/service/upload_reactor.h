// One call of UploadDataset.

#ifndef SERVER_SERVICE_UPLOAD_REACTOR_H_
#define SERVER_SERVICE_UPLOAD_REACTOR_H_

#include <atomic>
#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/mutex.h"
#include "finetune/v1/dataset_service.pb.h"
#include "grpcpp/alarm.h"
#include "grpcpp/grpcpp.h"
#include "server/datasets/dataset_store.h"

namespace finetune {

// Deletes itself when the call is over. Once there is an Upload, that one's end
// is the call's, however it comes about.
class UploadReactor final
    : public grpc::ServerReadReactor<v1::UploadDatasetRequest> {
 public:
  // `uploads` counts those that go on; all must outlive the gRPC server.
  UploadReactor(DatasetStore& store, std::atomic<int>& uploads, int max_uploads,
                absl::Duration header_timeout,
                v1::UploadDatasetResponse* response);

  void OnReadDone(bool ok) override ABSL_LOCKS_EXCLUDED(mu_);
  void OnCancel() override ABSL_LOCKS_EXCLUDED(mu_);
  void OnDone() override;

 private:
  // Answers the first message. An error ends the call.
  absl::Status Begin(bool came) ABSL_LOCKS_EXCLUDED(mu_);
  absl::Status TakeSlot() ABSL_LOCKS_EXCLUDED(mu_);
  void AddChunk(Upload& upload);
  void ReadNext() ABSL_LOCKS_EXCLUDED(mu_);
  void End(const absl::StatusOr<v1::Dataset>& dataset, bool existed)
      ABSL_LOCKS_EXCLUDED(mu_);
  void FinishOnce(const absl::Status& status)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void OnHeaderAlarm(bool expired) ABSL_LOCKS_EXCLUDED(mu_);
  void Release();

  DatasetStore& store_;
  std::atomic<int>& uploads_;
  const int max_uploads_;
  v1::UploadDatasetResponse* const response_;
  v1::UploadDatasetRequest request_;  // Belongs to the read that goes on.

  Mutex mu_;
  bool header_came_ ABSL_GUARDED_BY(mu_) = false;
  bool cancelled_ ABSL_GUARDED_BY(mu_) = false;
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
  bool has_slot_ ABSL_GUARDED_BY(mu_) = false;
  std::unique_ptr<Upload> upload_ ABSL_GUARDED_BY(mu_);

  grpc::Alarm header_alarm_;
  std::atomic<int> users_ = 2;  // The call, and the alarm until it was called.
};

}  // namespace finetune

#endif  // SERVER_SERVICE_UPLOAD_REACTOR_H_
