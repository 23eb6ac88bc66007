#include "server/server.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/file.h"
#include "common/rpc_status.h"
#include "common/status_macros.h"
#include "google/protobuf/message.h"
#include "grpc/health/v1/health.pb.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/grpcpp.h"
#include "grpcpp/health_check_service_interface.h"
#include "server/inference/batcher.h"
#include "server/inference/model_cache.h"
#include "server/inference/predictor.h"
#include "server/jobs/job_store.h"
#include "server/jobs/scheduler.h"
#include "server/jobs/trainer_process.h"
#include "server/model/device.h"
#include "server/model/registry.h"
#include "server/service/inference_service.h"
#include "server/service/training_service.h"
#include "spdlog/spdlog.h"

namespace finetune {
namespace {

constexpr auto kStreamGrace = std::chrono::seconds(5);

// Keeps other servers away from the state folder while it lives.
class StateLock {
 public:
  static absl::StatusOr<std::unique_ptr<StateLock>> Take(
      const std::filesystem::path& state_dir) {
    const std::filesystem::path path = state_dir / "lock";
    const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0) {
      return absl::ErrnoToStatus(errno, absl::StrCat("open ", path.native()));
    }
    auto lock = std::unique_ptr<StateLock>(new StateLock(fd));
    if (flock(fd, LOCK_EX | LOCK_NB) == 0) return lock;
    return absl::FailedPreconditionError(absl::StrCat(
        "another finetuned uses the state folder ", state_dir.native()));
  }
  ~StateLock() { close(fd_); }
  StateLock(const StateLock&) = delete;
  StateLock& operator=(const StateLock&) = delete;

 private:
  explicit StateLock(int fd) : fd_(fd) {}

  const int fd_;
};

trainer::TrainerSpec TrainerDefaults(const ServerOptions& options,
                                     const std::string& device) {
  trainer::TrainerSpec spec;
  spec.set_pretrained(std::filesystem::absolute(options.pretrained).string());
  spec.set_device(device);
  spec.set_threads(options.threads);
  spec.set_decode_threads(options.decode_threads);
  spec.set_max_image_pixels(options.max_image_pixels);
  return spec;
}

}  // namespace

struct Server::Rooms {
  Rooms(const ServerOptions& options, std::unique_ptr<StateLock> state_lock,
        std::string device_name, std::unique_ptr<ModelRegistry> model_registry);

  absl::Status Listen(const ServerOptions& options);

  // The model of a job that succeeded: on disk, in memory, served.
  absl::StatusOr<v1::ModelRef> Publish(const v1::FineTuneJob& job,
                                       const std::filesystem::path& model_dir);

  // Loads the default model and tells health whether there is one.
  void ServeDefaultModel();

  const std::unique_ptr<StateLock> lock;
  const std::string device;
  std::string address;
  std::unique_ptr<ModelRegistry> registry;
  ModelCache models;
  Batcher batcher;
  JobStore jobs;
  Scheduler scheduler;
  TrainingService training_service;
  InferenceService inference_service;
  std::unique_ptr<grpc::Server> grpc_server;
};

Server::Rooms::Rooms(const ServerOptions& options,
                     std::unique_ptr<StateLock> state_lock,
                     std::string device_name,
                     std::unique_ptr<ModelRegistry> model_registry)
    : lock(std::move(state_lock)),
      device(std::move(device_name)),
      registry(std::move(model_registry)),
      models(
          options.max_loaded_models,
          [this, predictor =
                     PredictorOptions{
                         .device = device,
                         .threads = options.threads,
                         .limits = {.max_pixels = options.max_image_pixels}}](
              const v1::Model& model) {
            return LoadPredictor(registry->DirOf(model.ref()) / kWeightsFile,
                                 model.labels_size(), predictor);
          }),
      batcher({.max_batch = options.max_batch,
               .max_waiting = options.max_queued_images}),
      scheduler(
          {.max_waiting = options.max_queued_jobs,
           .jobs_dir = options.state_dir / "jobs",
           .trainer = TrainerDefaults(options, device)},
          jobs,
          [binary = options.trainer](const auto& job_dir, const auto& spec,
                                     const auto& on_event,
                                     const std::stop_token& stop) {
            return RunTrainer(binary, job_dir, spec, on_event, stop);
          },
          [this](const auto& job, const auto& model_dir) {
            return Publish(job, model_dir);
          }),
      training_service(
          {.data_root = options.data_root, .pretrained = options.pretrained},
          jobs, scheduler),
      inference_service({.max_images = options.max_images,
                         .max_image_bytes = options.max_image_bytes},
                        *registry, models, batcher) {}

absl::Status Server::Rooms::Listen(const ServerOptions& options) {
  grpc::EnableDefaultHealthCheckService(true);
  // Links health.proto in, for reflection to describe.
  google::protobuf::LinkMessageReflection<
      grpc::health::v1::HealthCheckRequest>();
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort(options.address, grpc::InsecureServerCredentials(),
                           &port);
  // Else a second server would share the port and take half of the calls.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.SetMaxReceiveMessageSize(options.max_message_bytes);
  builder.RegisterService(&training_service);
  builder.RegisterService(&inference_service);
  grpc_server = builder.BuildAndStart();
  if (grpc_server == nullptr || port == 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot listen on ", options.address));
  }
  const size_t host = options.address.rfind(':');
  address = absl::StrCat(options.address.substr(0, host), ":", port);
  ServeDefaultModel();
  return absl::OkStatus();
}

absl::StatusOr<v1::ModelRef> Server::Rooms::Publish(
    const v1::FineTuneJob& job, const std::filesystem::path& model_dir) {
  ASSIGN_OR_RETURN(const v1::Model model,
                   registry->Publish(job.model_name(), model_dir));
  RETURN_IF_ERROR(models.Get(model).status());  // Warm before it is asked for.
  RETURN_IF_ERROR(registry->Promote(model.ref()));
  ServeDefaultModel();
  return model.ref();
}

void Server::Rooms::ServeDefaultModel() {
  absl::Status ready;
  if (const auto model = registry->Resolve({}); model.ok()) {
    ready = models.Get(*model).status();
    if (!ready.ok()) spdlog::error("default model: {}", ready.ToString());
  } else {
    ready = model.status();
  }
  auto* const health = grpc_server->GetHealthCheckService();
  health->SetServingStatus(v1::TrainingService::service_full_name(), true);
  health->SetServingStatus(v1::InferenceService::service_full_name(),
                           ready.ok());
}

absl::StatusOr<std::unique_ptr<Server>> Server::Start(
    const ServerOptions& options) {
  ASSIGN_OR_RETURN(std::string device, ResolveDevice(options.device));
  RETURN_IF_ERROR(MakeFolders(options.state_dir));
  ASSIGN_OR_RETURN(auto lock, StateLock::Take(options.state_dir));
  ASSIGN_OR_RETURN(auto registry,
                   ModelRegistry::Open(options.state_dir / "models"));
  auto rooms = std::make_unique<Rooms>(options, std::move(lock),
                                       std::move(device), std::move(registry));
  RETURN_IF_ERROR(rooms->Listen(options));
  spdlog::info("serving on {}, device {}, state in {}", rooms->address,
               rooms->device, options.state_dir.native());
  return std::unique_ptr<Server>(new Server(std::move(rooms)));
}

Server::Server(std::unique_ptr<Rooms> rooms) : rooms_(std::move(rooms)) {}

Server::~Server() { Shutdown(); }

const std::string& Server::address() const { return rooms_->address; }

void Server::Shutdown() {
  rooms_->grpc_server->GetHealthCheckService()->Shutdown();
  rooms_->scheduler.Shutdown();
  rooms_->batcher.Shutdown();
  rooms_->grpc_server->Shutdown(std::chrono::system_clock::now() +
                                kStreamGrace);
}

}  // namespace finetune
