#include "server/rooms.h"

#include <algorithm>
#include <system_error>
#include <utility>

#include "common/status_macros.h"
#include "server/data/normalize.h"
#include "server/inference/fatal_errors.h"
#include "server/inference/predictor.h"
#include "server/inference/preprocess.h"
#include "server/jobs/trainer_process.h"
#include "server/log.h"
#include "server/model/device.h"
#include "server/model/onnx_export.h"
#include "spdlog/spdlog.h"

namespace finetune {
namespace {

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
  spec.set_step_wait(options.trainer_step_wait == "always" ? TrainerSpec::ALWAYS
                     : options.trainer_step_wait == "never"
                         ? TrainerSpec::NEVER
                         : TrainerSpec::WHILE_SERVING);
  spec.set_cudnn_benchmark(options.cudnn_benchmark);
  spec.set_decode_threads(options.decode_threads);
  spec.set_max_image_pixels(options.max_image_pixels);
  spec.mutable_checkpoint_interval()->set_seconds(options.checkpoint_interval);
  return spec;
}

// Beyond these, larger batches make answers later and hardly more.
size_t MaxBatch(const ServerOptions& options, const std::string& device) {
  if (options.max_batch > 0) return options.max_batch;
  return device == "cpu" ? 8 : 32;
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

QueueStats ToQueueStats(const Batcher::Stats& stats, size_t max_waiting) {
  return {.waiting_images = static_cast<int64_t>(stats.waiting),
          .max_waiting_images = static_cast<int64_t>(max_waiting),
          .dropped_by_deadline = static_cast<int64_t>(stats.expired),
          .dropped_by_cancel = static_cast<int64_t>(stats.cancelled)};
}

std::optional<Space> GpuSpace(const std::string& device) {
  const auto memory = MemoryOfGpu(device);
  if (!memory) return std::nullopt;
  return Space{.total_bytes = memory->total_bytes,
               .free_bytes = memory->free_bytes};
}

LoadedModelStats ToModelStats(const ModelCache::Stats& stats) {
  return {.loaded = static_cast<int64_t>(stats.models),
          .bytes = static_cast<int64_t>(stats.bytes),
          .loads = static_cast<int64_t>(stats.loads),
          .load_failures = static_cast<int64_t>(stats.failed_loads),
          .evictions = static_cast<int64_t>(stats.evictions),
          .load_time = stats.load_time};
}

}  // namespace

std::vector<std::string> ServiceNames() {
  return {v1::TrainingService::service_full_name(),
          v1::DatasetService::service_full_name(),
          v1::InferenceService::service_full_name(),
          v1::ModelService::service_full_name(),
          inference::GRPCInferenceService::service_full_name()};
}

ServerRooms::ServerRooms(const ServerOptions& options, std::string device_name,
                         std::unique_ptr<StateFolder> state_folder,
                         std::unique_ptr<Authorizer> gatekeeper,
                         std::unique_ptr<ServingActivity> serving_activity,
                         std::function<void()> on_fatal_error)
    : on_fatal(std::move(on_fatal_error)),
      log_requests(options.log_requests),
      drain_timeout(absl::Seconds(options.drain_timeout)),
      device(std::move(device_name)),
      authorizer(std::move(gatekeeper)),
      activity(std::move(serving_activity)),
      state(std::move(state_folder)),
      metrics(
          {.version = FINETUNE_VERSION,
           .libtorch = LibTorchVersion(),
           .device = device},
          {.queue =
               [this, max_waiting = options.max_queued_images] {
                 return ToQueueStats(batcher.stats(), max_waiting);
               },
           .models = [this] { return ToModelStats(models.stats()); },
           .jobs_by_state = [this] { return state->jobs().CountByState(); },
           .running_jobs = [this] { return RunningJobs(state->jobs()); },
           .dropped_log_lines = DroppedLogLines,
           .state_disk = [dir = std::filesystem::absolute(
                              options.state_dir)] { return DiskSpace(dir); },
           .memory = [] { return MemorySpace(); },
           .gpu_memory = [this] { return GpuSpace(device); }}),
      calls(ServiceNames(), [this](const auto& call) { EndCall(call); }),
      models(
          options.model_memory,
          [this,
           predictor =
               PredictorOptions{
                   .device = device,
                   .threads = std::min(options.threads, Batcher::kMostThreads),
                   .max_batch = static_cast<int>(MaxBatch(options, device)),
                   .precision = options.precision,
                   .on_warning =
                       [](const std::string& text) {
                         spdlog::warn("{}", text);
                       }}](const v1::Model& model) {
            return Load(model, predictor);
          }),
      batcher(
          {.max_batch = MaxBatch(options, device),
           .max_waiting = options.max_queued_images,
           .max_delay = absl::Milliseconds(options.max_batch_delay),
           .preprocess_threads = options.preprocess_threads,
           .workers = device == "cpu" ? options.threads : kCudaWorkers,
           .input_bytes = kInputBytes,
           .allocate_input = device == "cpu" ? AllocateOnHeap : AllocatePinned,
           .on_batch =
               [this](const v1::Model&, size_t images) {
                 activity->Note();
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
          [this, binary = options.trainer](
              const auto& job_dir, const auto& spec, const auto& on_event,
              const std::stop_token& stop) {
            return RunTrainer(binary, job_dir, spec, on_event, stop,
                              activity->fd());
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
                        classifier, calls, *authorizer),
      model_service({}, Hooks(), state->models(), *authorizer),
      open_inference_service(
          {.max_images = options.max_images,
           .max_image_bytes = options.max_image_bytes},
          {.resolve =
               [this](const auto& ref) { return state->models().Resolve(ref); },
           .list_models = [this] { return state->models().All(); },
           .is_ready = [this] { return can_classify && !is_closing; }},
          classifier, calls, *authorizer) {}

absl::StatusOr<LoadedModel> ServerRooms::Load(
    const v1::Model& model, const PredictorOptions& predictor) {
  absl::StatusOr<LoadedModel> loaded = LoadChecked(model, predictor);
  const auto works = [this] { return DeviceWorks(device); };
  const auto fail = [this](const std::string& message) { Fail(message); };
  const auto current = state->models().Resolve({});
  if (grpc_server != nullptr && current.ok() &&
      ModelRefText(current->ref()) == ModelRefText(model.ref())) {
    SetServing(loaded.ok());
  }
  if (loaded.ok()) {
    loaded->forward =
        ReportingFatalErrors(std::move(loaded->forward), works, fail);
    return loaded;
  }
  spdlog::error("model {}: {}", ModelRefText(model.ref()),
                loaded.status().ToString());
  if (!works()) fail(std::string(loaded.status().message()));
  return loaded;
}

absl::StatusOr<LoadedModel> ServerRooms::LoadChecked(
    const v1::Model& model, const PredictorOptions& predictor) const {
  const auto dir = state->models().DirOf(model.ref());
  RETURN_IF_ERROR(CheckWeightsFile(dir, model));
  return LoadPredictor(dir / kWeightsFile, model.labels_size(), predictor);
}

absl::StatusOr<Publication> ServerRooms::Prepare(
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

ModelHooks ServerRooms::Hooks() {
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
          .export_onnx = [this](const v1::Model& model,
                                const auto& path) -> absl::Status {
            const auto dir = state->models().DirOf(model.ref());
            RETURN_IF_ERROR(CheckWeightsFile(dir, model));
            return ExportOnnx(model, dir / kWeightsFile, path);
          }};
}

}  // namespace finetune
