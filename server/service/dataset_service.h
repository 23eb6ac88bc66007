// DatasetService's face. No handler blocks, so a few gRPC threads carry any
// number of calls: an upload is unpacked on its own thread, and the next of its
// messages is read only when that one has room.

#ifndef SERVER_SERVICE_DATASET_SERVICE_H_
#define SERVER_SERVICE_DATASET_SERVICE_H_

#include <atomic>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "finetune/v1/dataset_service.grpc.pb.h"
#include "grpcpp/grpcpp.h"
#include "server/datasets/dataset_store.h"
#include "server/service/authorizer.h"

namespace finetune {

class DatasetService final : public v1::DatasetService::CallbackService {
 public:
  struct Options {
    int max_uploads = 4;  // At once.
    // For the first message; the store has its own for those that follow.
    absl::Duration header_timeout = absl::Seconds(60);
  };

  // Owns neither; both must outlive the gRPC server, as this must.
  DatasetService(Options options, DatasetStore& store,
                 const Authorizer& authorizer);

  grpc::ServerReadReactor<v1::UploadDatasetRequest>* UploadDataset(
      grpc::CallbackServerContext* context,
      v1::UploadDatasetResponse* response) override;

  grpc::ServerUnaryReactor* ListDatasets(
      grpc::CallbackServerContext* context,
      const v1::ListDatasetsRequest* request,
      v1::ListDatasetsResponse* response) override;

  grpc::ServerUnaryReactor* DeleteDataset(
      grpc::CallbackServerContext* context,
      const v1::DeleteDatasetRequest* request,
      v1::DeleteDatasetResponse* response) override;

 private:
  absl::StatusOr<v1::ListDatasetsResponse> List(
      const v1::ListDatasetsRequest& request);
  absl::Status Delete(const v1::DeleteDatasetRequest& request);

  const Options options_;
  DatasetStore& store_;
  const Authorizer& authorizer_;
  std::atomic<int> uploads_ = 0;  // That go on.
};

}  // namespace finetune

#endif  // SERVER_SERVICE_DATASET_SERVICE_H_
