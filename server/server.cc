#include "server/server.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/address.h"
#include "common/rpc_status.h"
#include "common/status_macros.h"
#include "google/protobuf/message.h"
#include "grpc/grpc.h"
#include "grpc/health/v1/health.pb.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/grpcpp.h"
#include "grpcpp/health_check_service_interface.h"
#include "server/data/transforms.h"
#include "server/inference/batcher.h"
#include "server/inference/classifier.h"
#include "server/inference/fatal_errors.h"
#include "server/inference/model_cache.h"
#include "server/inference/predictor.h"
#include "server/inference/preprocess.h"
#include "server/jobs/job_runner.h"
#include "server/jobs/scheduler.h"
#include "server/jobs/trainer_process.h"
#include "server/log.h"
#include "server/metrics/metrics.h"
#include "server/model/device.h"
#include "server/model/onnx_export.h"
#include "server/service/authorizer.h"
#include "server/service/call_log.h"
#include "server/service/dataset_service.h"
#include "server/service/inference_service.h"
#include "server/service/listening.h"
#include "server/service/model_service.h"
#include "server/service/open_inference_service.h"
#include "server/service/training_service.h"
#include "server/state_folder.h"
#include "spdlog/spdlog.h"

namespace finetune {
namespace {

constexpr size_t kMinMessagesAtOnce = 4;  // Room for so many large requests.

using trainer::TrainerSpec;

TrainerSpec TrainerDefaults(const ServerOptions& options,
                            const std::string& device) {
  TrainerSpec spec;
  spec.set_pretrained(std::filesystem::absolute(options.pretrained).string());
  std::error_code ignored;
  spec.set_data_root(
      std::filesystem::canonical(options.data_root, ignored).string());
  spec.set_device(device);
  spec.set_threads(options.trainer_threads > 0 ? options.trainer_threads
                                               : options.threads);
  spec.set_priority(options.trainer_priority == "idle"  ? TrainerSpec::IDLE
                    : options.trainer_priority == "low" ? TrainerSpec::LOW
                                                        : TrainerSpec::NORMAL);
  spec.set_decode_threads(options.decode_threads);
  spec.set_max_image_pixels(options.max_image_pixels);
  spec.mutable_checkpoint_interval()->set_seconds(options.checkpoint_interval);
  return spec;
}

ListenOptions ToListenOptions(const ServerOptions& options) {
  return {
      .address = options.address,
      .tls = {.certificate = options.tls_cert,
              .key = options.tls_key,
              .client_ca = options.tls_client_ca},
      .has_tokens = !options.token_file.empty(),
      .insecure_bind = options.insecure_bind,
      .max_message_bytes = options.max_message_bytes,
      .max_receive_bytes = std::max(
          options.max_receive_bytes,
          kMinMessagesAtOnce * static_cast<size_t>(options.max_message_bytes)),
      .max_metadata_bytes = options.max_metadata_bytes,
      .max_concurrent_streams = options.max_concurrent_streams};
}

absl::StatusOr<std::unique_ptr<Authorizer>> OpenAuthorizer(
    const std::filesystem::path& token_file) {
  if (token_file.empty()) return std::make_unique<Authorizer>();
  return Authorizer::Open(token_file);
}

// The services whose calls are counted by method, and whose health is told.
std::vector<std::string> ServiceNames() {
  return {v1::TrainingService::service_full_name(),
          v1::DatasetService::service_full_name(),
          v1::InferenceService::service_full_name(),
          v1::ModelService::service_full_name(),
          inference::GRPCInferenceService::service_full_name()};
}

// Jobs whose training goes on right now.
std::vector<v1::FineTuneJob> RunningJobs(const JobStore& jobs) {
  constexpr int kMaxJobs = 64;  // As --max_running_jobs.
  auto page = jobs.List({v1::JOB_STATE_VALIDATING, v1::JOB_STATE_RUNNING},
                        kMaxJobs, "");
  if (!page.ok()) return {};
  std::erase_if(page->jobs, [](const v1::FineTuneJob& job) {
    return job.state() != v1::JOB_STATE_RUNNING;
  });
  return std::move(page->jobs);
}

QueueStats ToQueueStats(const Batcher::Stats& stats) {
  return {.waiting_images = static_cast<int64_t>(stats.waiting),
          .dropped_by_deadline = static_cast<int64_t>(stats.expired),
          .dropped_by_cancel = static_cast<int64_t>(stats.cancelled)};
}

LoadedModelStats ToModelStats(const ModelCache::Stats& stats) {
  return {.loaded = static_cast<int64_t>(stats.models),
          .bytes = static_cast<int64_t>(stats.bytes),
          .loads = static_cast<int64_t>(stats.loads),
          .load_failures = static_cast<int64_t>(stats.failed_loads),
          .evictions = static_cast<int64_t>(stats.evictions),
          .load_time = stats.load_time};
}

// Whether --log_requests, `which`, wants a line for the call.
bool WantsLine(const std::string& which, const CallRecord& call) {
  return which == "all" || (which == "errors" && !call.status.ok());
}

}  // namespace

struct Server::Rooms {
  Rooms(const ServerOptions& options, std::string device_name,
        std::unique_ptr<StateFolder> state_folder,
        std::unique_ptr<Authorizer> gatekeeper,
        std::function<void()> on_fatal_error);

  ~Rooms() { metrics.Close(); }  // It asks the other rooms.

  absl::Status Listen(const ServerOptions& options);

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

Server::Rooms::Rooms(const ServerOptions& options, std::string device_name,
                     std::unique_ptr<StateFolder> state_folder,
                     std::unique_ptr<Authorizer> gatekeeper,
                     std::function<void()> on_fatal_error)
    : on_fatal(std::move(on_fatal_error)),
      log_requests(options.log_requests),
      drain_timeout(absl::Seconds(options.drain_timeout)),
      device(std::move(device_name)),
      authorizer(std::move(gatekeeper)),
      state(std::move(state_folder)),
      metrics({.version = FINETUNE_VERSION,
               .libtorch = LibTorchVersion(),
               .device = device},
              {.queue = [this] { return ToQueueStats(batcher.stats()); },
               .models = [this] { return ToModelStats(models.stats()); },
               .jobs_by_state = [this] { return state->jobs().CountByState(); },
               .running_jobs = [this] { return RunningJobs(state->jobs()); },
               .dropped_log_lines = DroppedLogLines}),
      calls(ServiceNames(), [this](const auto& call) { EndCall(call); }),
      models(
          options.model_memory,
          [this, predictor = PredictorOptions{.device = device,
                                              .threads = options.threads,
                                              .max_batch = static_cast<int>(
                                                  options.max_batch),
                                              .precision = options.precision}](
              const v1::Model& model) -> absl::StatusOr<LoadedModel> {
            ASSIGN_OR_RETURN(
                LoadedModel loaded,
                LoadPredictor(state->models().DirOf(model.ref()) / kWeightsFile,
                              model.labels_size(), predictor));
            loaded.forward = ReportingFatalErrors(
                std::move(loaded.forward),
                [this](const std::string& message) { Fail(message); });
            return loaded;
          }),
      batcher({.max_batch = options.max_batch,
               .max_waiting = options.max_queued_images,
               .max_delay = absl::Milliseconds(options.max_batch_delay),
               .preprocess_threads = options.preprocess_threads,
               // A GPU is one stream, whatever the number of threads.
               .workers = device == "cpu" ? options.threads : 1,
               .input_floats = kInputFloats,
               .on_batch =
                   [this](const v1::Model&, size_t images) {
                     metrics.ObserveBatch(static_cast<int>(images));
                   }},
              MakePreprocess({.max_pixels = options.max_image_pixels})),
      classifier(
          [this](const auto& ref) { return state->models().Resolve(ref); },
          models, batcher,
          [this](const ClassifyOutcome& outcome, absl::Duration total) {
            metrics.ObserveClassify({.queue = outcome.queue,
                                     .preprocess = outcome.preprocess,
                                     .compute = outcome.compute,
                                     .total = total});
          }),
      runner(
          state->jobs_dir(), TrainerDefaults(options, device), state->jobs(),
          [binary = options.trainer](const auto& job_dir, const auto& spec,
                                     const auto& on_event,
                                     const std::stop_token& stop) {
            return RunTrainer(binary, job_dir, spec, on_event, stop);
          },
          [this](const auto& job, const auto& model_dir) {
            return Prepare(job, model_dir);
          }),
      scheduler({.max_waiting = options.max_queued_jobs,
                 .max_running = static_cast<size_t>(options.max_running_jobs)},
                state->jobs(), runner),
      training_service(
          {.data_root = options.data_root,
           .pretrained = options.pretrained,
           .find_upload = [this](const std::string& id)
               -> absl::StatusOr<UploadedDataset> {
             ASSIGN_OR_RETURN(const v1::Dataset dataset,
                              state->datasets().Find(id));
             return UploadedDataset{state->datasets().PathOf(id),
                                    dataset.name()};
           },
           .check_state_room = [this] { return state->CheckRoom(); }},
          state->jobs(), scheduler, *authorizer),
      dataset_service({.max_uploads = options.max_uploads}, state->datasets(),
                      *authorizer),
      inference_service({.max_images = options.max_images,
                         .max_image_bytes = options.max_image_bytes,
                         .max_stream_items = options.max_stream_items},
                        classifier, *authorizer),
      model_service({}, Hooks(), state->models(), *authorizer),
      open_inference_service(
          {.max_images = options.max_images,
           .max_image_bytes = options.max_image_bytes},
          {.resolve =
               [this](const auto& ref) { return state->models().Resolve(ref); },
           .list_models = [this] { return state->models().All(); },
           .is_ready = [this] { return can_classify && !is_closing; }},
          classifier, *authorizer) {}

absl::Status Server::Rooms::Listen(const ServerOptions& options) {
  grpc::EnableDefaultHealthCheckService(true);
  // Links health.proto in, for reflection to describe.
  google::protobuf::LinkMessageReflection<
      grpc::health::v1::HealthCheckRequest>();
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  if (!options.metrics_address.empty()) {
    if (!options.insecure_bind && !IsLoopbackAddress(options.metrics_address)) {
      return absl::FailedPreconditionError(absl::StrCat(
          "--metrics_address ", options.metrics_address,
          " can be reached from other machines, and has neither TLS nor "
          "tokens: use a loopback address, or say --insecure_bind where a "
          "firewall guards the port"));
    }
    ASSIGN_OR_RETURN(metrics_address, metrics.Expose(options.metrics_address));
  }
  grpc::ServerBuilder builder;
  calls.Attach(builder);
  int port = 0;
  RETURN_IF_ERROR(ConfigureListening(ToListenOptions(options), builder, &port));
  builder.RegisterService(&training_service);
  builder.RegisterService(&dataset_service);
  builder.RegisterService(&inference_service);
  builder.RegisterService(&model_service);
  builder.RegisterService(&open_inference_service);
  grpc_server = builder.BuildAndStart();
  if (grpc_server == nullptr || port == 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot listen on ", options.address));
  }
  const size_t host = options.address.rfind(':');
  address = absl::StartsWith(options.address, "unix")
                ? options.address
                : absl::StrCat(options.address.substr(0, host), ":", port);
  UpdateHealth();
  return absl::OkStatus();
}

absl::StatusOr<Publication> Server::Rooms::Prepare(
    const v1::FineTuneJob& job, const std::filesystem::path& model_dir) {
  ASSIGN_OR_RETURN(const v1::Model model,
                   state->models().Stage(job.model_name(), model_dir));
  const absl::Status loaded = models.Load(model).status();
  if (!loaded.ok()) {
    state->models().Discard(model);
    return loaded;
  }
  const bool promote = !job.hold_promotion();
  return Publication{.model = model.ref(),
                     .joint = {.write =
                                   [=, this](Transaction& transaction) {
                                     return state->models().Insert(
                                         model, promote, transaction);
                                   },
                               .apply =
                                   [=, this] {
                                     state->models().Adopt(model, promote);
                                     if (!promote) return;
                                     metrics.CountPromotion();
                                     SetServing(true);
                                   }},
                     .discard = [=, this] { state->models().Discard(model); }};
}

ModelHooks Server::Rooms::Hooks() {
  return {.prepare =
              [this](const v1::Model& model,
                     const std::function<void(absl::Status)>& done) {
                models.Get(model, [done](const auto& servable) {
                  done(servable.status());
                });
              },
          .promoted =
              [this] {
                metrics.CountPromotion();
                SetServing(true);
              },
          .deleted = [this](const v1::ModelRef& ref) { models.Drop(ref); },
          .export_onnx =
              [this](const v1::Model& model, const auto& path) {
                return ExportOnnx(
                    model, state->models().DirOf(model.ref()) / kWeightsFile,
                    path);
              }};
}

void Server::Rooms::UpdateHealth() {
  absl::Status ready;
  if (const auto model = state->models().Resolve({}); model.ok()) {
    ready = models.Load(*model).status();
    if (!ready.ok()) spdlog::error("default model: {}", ready.ToString());
  } else {
    ready = model.status();
  }
  SetServing(ready.ok());
}

void Server::Rooms::SetServing(bool inference) {
  can_classify = inference;
  auto* const health = grpc_server->GetHealthCheckService();
  for (const std::string& service : ServiceNames()) {
    health->SetServingStatus(service, true);
  }
  health->SetServingStatus(v1::InferenceService::service_full_name(),
                           inference);
}

void Server::Rooms::Fail(const std::string& message) {
  if (failed.exchange(true)) return;
  spdlog::critical("cannot go on: {}", message);
  // While the first model is loaded there is no server yet.
  if (grpc_server != nullptr) grpc_server->GetHealthCheckService()->Shutdown();
  on_fatal();
}

void Server::Rooms::EndCall(const CallRecord& call) {
  metrics.CountCall(call.method, CodeName(call.status.error_code()),
                    call.elapsed);
  if (!WantsLine(log_requests, call)) return;
  LogEvent(call.IsBackground() ? spdlog::level::debug : spdlog::level::info,
           ToLogFields(call));
}

void Server::Rooms::Drain() {
  is_closing = true;
  // From here on SetServing changes nothing.
  grpc_server->GetHealthCheckService()->Shutdown();
  const auto deadline =
      std::chrono::system_clock::now() + absl::ToChronoSeconds(drain_timeout);
  // It takes no more connections, and waits for the calls of those it has.
  const std::jthread connections(
      [this, deadline] { grpc_server->Shutdown(deadline); });
  const std::jthread trainers([this] { scheduler.Shutdown(); });
  state->jobs().EndWatches();
  inference_service.EndStreams();
  const std::jthread images([this] {
    models.Shutdown();
    batcher.Shutdown(absl::Now() + drain_timeout);
  });
  if (!calls.AwaitIdle(drain_timeout)) {
    spdlog::warn("{} calls were cut off after --drain_timeout",
                 calls.in_flight());
  } else if (calls.in_background() > 0) {
    // Those who watch health would stay on.
    grpc_server_cancel_all_calls(grpc_server->c_server());
  }
}

absl::StatusOr<std::unique_ptr<Server>> Server::Start(
    const ServerOptions& options, std::function<void()> on_fatal) {
  ASSIGN_OR_RETURN(std::string device, ResolveDevice(options.device));
  ASSIGN_OR_RETURN(auto authorizer, OpenAuthorizer(options.token_file));
  ASSIGN_OR_RETURN(
      auto state,
      StateFolder::Open(std::filesystem::absolute(options.state_dir),
                        {.max_bytes = options.max_state_bytes,
                         .max_upload_bytes = options.max_upload_bytes}));
  auto rooms =
      std::make_unique<Rooms>(options, std::move(device), std::move(state),
                              std::move(authorizer), std::move(on_fatal));
  RETURN_IF_ERROR(rooms->Listen(options));
  rooms->scheduler.Start();
  spdlog::info("serving on {}, device {}, state in {}", rooms->address,
               rooms->device, options.state_dir.native());
  if (!rooms->metrics_address.empty()) {
    spdlog::info("metrics on http://{}/metrics", rooms->metrics_address);
  }
  return std::unique_ptr<Server>(new Server(std::move(rooms)));
}

Server::Server(std::unique_ptr<Rooms> rooms) : rooms_(std::move(rooms)) {}

Server::~Server() { Shutdown(); }

const std::string& Server::address() const { return rooms_->address; }

const std::string& Server::metrics_address() const {
  return rooms_->metrics_address;
}

void Server::Shutdown() {
  if (!drained_) rooms_->Drain();
  drained_ = true;
}

}  // namespace finetune
