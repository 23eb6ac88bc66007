// The rooms of the server and how they are wired, in the order of the flow.

#ifndef SERVER_ROOMS_H_
#define SERVER_ROOMS_H_

#include <atomic>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/serving_activity.h"
#include "grpcpp/grpcpp.h"
#include "server/inference/batcher.h"
#include "server/inference/classifier.h"
#include "server/inference/model_cache.h"
#include "server/inference/predictor.h"
#include "server/jobs/job_runner.h"
#include "server/jobs/scheduler.h"
#include "server/metrics/metrics.h"
#include "server/options.h"
#include "server/service/authorizer.h"
#include "server/service/call_log.h"
#include "server/service/dataset_service.h"
#include "server/service/inference_service.h"
#include "server/service/model_service.h"
#include "server/service/open_inference_service.h"
#include "server/service/training_service.h"
#include "server/state_folder.h"

namespace finetune {

// The services whose calls are counted by method, and whose health is told.
std::vector<std::string> ServiceNames();

struct ServerRooms {
  ServerRooms(const ServerOptions& options, std::string device_name,
              std::unique_ptr<StateFolder> state_folder,
              std::unique_ptr<Authorizer> gatekeeper,
              std::unique_ptr<ServingActivity> serving_activity,
              std::function<void()> on_fatal_error);

  ~ServerRooms() { metrics.Close(); }  // It asks the other rooms.

  // `builder` is configured as ConfigureListening does; `port` is the one that
  // it was given for the result.
  absl::Status Listen(const ServerOptions& options,
                      grpc::ServerBuilder& builder, const int& port);

  // Into memory, for Classify. Health is told how it went with the default
  // model, since a failure may pass; failures are logged, and a device that
  // fails for good ends the server.
  absl::StatusOr<LoadedModel> Load(const v1::Model& model,
                                   const PredictorOptions& predictor);

  // The same, without telling anybody. DATA_LOSS if the weights are not those
  // that were published.
  absl::StatusOr<LoadedModel> LoadChecked(
      const v1::Model& model, const PredictorOptions& predictor) const;

  // Puts a job's model in its place and loads it, so that it is warm before it
  // is asked for.
  absl::StatusOr<Publication> Prepare(const v1::FineTuneJob& job,
                                      const std::filesystem::path& model_dir);

  // What ModelService has others do.
  ModelHooks Hooks();

  // Tells health what is true: whether the default model is there and loads.
  // To be called whenever that may have changed.
  void UpdateHealth();
  void SetServing(bool inference);

  // Serves nothing any more, and has the process end.
  void Fail(const std::string& message);

  void EndCall(const CallRecord& call);
  void Drain();

  const std::function<void()> on_fatal;
  std::atomic<bool> failed = false;
  const std::string log_requests;
  const absl::Duration drain_timeout;
  const std::string device;
  const std::unique_ptr<Authorizer> authorizer;
  const std::unique_ptr<ServingActivity> activity;  // For trainers.
  std::string address;
  const std::unique_ptr<StateFolder> state;
  Metrics metrics;
  std::string metrics_address;
  CallLog calls;
  ModelCache models;
  Batcher batcher;
  Classifier classifier;
  JobRunner runner;
  Scheduler scheduler;
  TrainingService training_service;
  DatasetService dataset_service;
  InferenceService inference_service;
  ModelService model_service;
  std::atomic<bool> can_classify = false;  // With the default model.
  std::atomic<bool> is_closing = false;
  OpenInferenceService open_inference_service;
  std::unique_ptr<grpc::Server> grpc_server;
};

}  // namespace finetune

#endif  // SERVER_ROOMS_H_
