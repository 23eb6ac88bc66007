#include "server/options.h"

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <system_error>
#include <thread>

#include "absl/status/status.h"
#include "common/address.h"
#include "server/settings_file.h"

namespace finetune {
namespace {

namespace fs = std::filesystem;

// $`variable`, or ~/`below_home`.
fs::path UserFolder(const char* variable, const char* below_home) {
  if (const char* value = std::getenv(variable); value && *value) return value;
  const char* home = std::getenv("HOME");
  return fs::path(home ? home : "/") / below_home;
}

fs::path FolderOfThisProgram() {
  std::error_code ignored;
  return fs::read_symlink("/proc/self/exe", ignored).parent_path();
}

// add(name, environment variable, value, help): an option with its default.
struct Adder {
  CLI::App& app;

  CLI::Option* operator()(const char* name, const char* variable, auto& value,
                          const char* help) const {
    return app.add_option(name, value, help)
        ->envname(variable)
        ->capture_default_str();
  }
};

// A check that says what `check` says, and nothing in --help.
CLI::Validator Checked(absl::Status (*check)(absl::string_view)) {
  return CLI::Validator(
      [check](const std::string& value) {
        return std::string(check(value).message());
      },
      "");
}

absl::Status CheckMetricsAddress(absl::string_view address) {
  return address.empty() ? absl::OkStatus() : CheckHostPort(address);
}

absl::Status CheckNamesAFolder(absl::string_view path) {
  if (!path.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError("it is empty, and must name a folder");
}

void AddListening(CLI::App& app, const Adder& add, ServerOptions& options) {
  add("--address", "FINETUNED_ADDRESS", options.address,
      "HOST:PORT to listen on; port 0 takes a free one. Other machines can "
      "reach it only with TLS and with tokens or client certificates")
      ->check(Checked(CheckAddress));
  add("--token_file", "FINETUNED_TOKEN_FILE", options.token_file,
      "Who may call: lines `admin TOKEN` or `classify TOKEN`");
  app.add_flag("--create_token_file", options.create_token_file,
               "Where --token_file does not exist, write it with an admin "
               "token, and print that")
      ->envname("FINETUNED_CREATE_TOKEN_FILE");
  add("--tls_cert", "FINETUNED_TLS_CERT", options.tls_cert,
      "The server's certificate and its issuers, PEM; read again on change");
  add("--tls_key", "FINETUNED_TLS_KEY", options.tls_key,
      "The certificate's key, PEM without a password");
  add("--tls_client_ca", "FINETUNED_TLS_CLIENT_CA", options.tls_client_ca,
      "Clients must show a certificate of these issuers, PEM");
  app.add_flag("--insecure_bind", options.insecure_bind,
               "Let other machines in without TLS or without tokens")
      ->envname("FINETUNED_INSECURE_BIND");
  add("--max_message_bytes", "FINETUNED_MAX_MESSAGE_BYTES",
      options.max_message_bytes, "Bytes of a whole request")
      ->check(CLI::Range(1 << 16, 1 << 30));
  add("--max_receive_bytes", "FINETUNED_MAX_RECEIVE_BYTES",
      options.max_receive_bytes,
      "Bytes of all requests that are arriving, at least 4 of the largest")
      ->check(CLI::Range(size_t{1} << 20, size_t{1} << 40));
  add("--max_metadata_bytes", "FINETUNED_MAX_METADATA_BYTES",
      options.max_metadata_bytes, "Bytes of a call's headers")
      ->check(CLI::Range(1 << 10, 1 << 20));
  add("--max_concurrent_streams", "FINETUNED_MAX_CONCURRENT_STREAMS",
      options.max_concurrent_streams, "Calls at once on one connection")
      ->check(CLI::Range(1, 1'000'000));
}

void AddOperations(const Adder& add, ServerOptions& options) {
  add("--metrics_address", "FINETUNED_METRICS_ADDRESS", options.metrics_address,
      "HOST:PORT of Prometheus' metrics; none by default. Without TLS: another "
      "machine's needs --insecure_bind")
      ->check(Checked(CheckMetricsAddress));
  add("--log_format", "FINETUNED_LOG_FORMAT", options.log_format,
      "text, json, or auto: text on a terminal")
      ->check(CLI::IsMember({"auto", "text", "json"}));
  add("--log_level", "FINETUNED_LOG_LEVEL", options.log_level,
      "Lines from this level on: debug, info, warn, error")
      ->check(CLI::IsMember({"debug", "info", "warn", "error"}));
  add("--log_requests", "FINETUNED_LOG_REQUESTS", options.log_requests,
      "A line for all calls, for errors, or for none")
      ->check(CLI::IsMember({"all", "errors", "none"}));
  add("--drain_timeout", "FINETUNED_DRAIN_TIMEOUT", options.drain_timeout,
      "Seconds that calls under way have to end after SIGTERM")
      ->check(CLI::Range(0, 3600));
}

void AddJobs(const Adder& add, ServerOptions& options) {
  add("--trainer", "FINETUNED_TRAINER", options.trainer,
      "The finetune-trainer program");
  add("--trainer_threads", "FINETUNED_TRAINER_THREADS", options.trainer_threads,
      "CPU threads that a trainer computes with; 0: as --threads")
      ->check(CLI::Range(0, 1024));
  add("--trainer_priority", "FINETUNED_TRAINER_PRIORITY",
      options.trainer_priority,
      "A trainer's share of the CPU beside the server: normal (as Classify's "
      "forward passes), low (nice 19) or idle (what is left)")
      ->check(CLI::IsMember({"normal", "low", "idle"}));
  add("--trainer_step_wait", "FINETUNED_TRAINER_STEP_WAIT",
      options.trainer_step_wait,
      "Whether a trainer on a GPU awaits each step before it enqueues the "
      "next, "
      "so that forward passes get in between: auto (while calls are answered), "
      "always or never")
      ->check(CLI::IsMember({"auto", "always", "never"}));
  add.app
      .add_flag("--cudnn_benchmark", options.cudnn_benchmark,
                "Let a trainer on a GPU try cuDNN's kernels and keep the "
                "fastest: a slower first step, quicker ones after it")
      ->envname("FINETUNED_CUDNN_BENCHMARK");
  add("--max_queued_jobs", "FINETUNED_MAX_QUEUED_JOBS", options.max_queued_jobs,
      "Jobs that may wait; more are refused")
      ->check(CLI::Range(1, 100'000));
  add("--max_running_jobs", "FINETUNED_MAX_RUNNING_JOBS",
      options.max_running_jobs, "Jobs that train at once")
      ->check(CLI::Range(1, 64));
  add("--checkpoint_interval", "FINETUNED_CHECKPOINT_INTERVAL",
      options.checkpoint_interval, "Seconds between a job's checkpoints")
      ->check(CLI::Range(1, 86'400));
  add("--max_uploads", "FINETUNED_MAX_UPLOADS", options.max_uploads,
      "Data sets that arrive at once; more are refused")
      ->check(CLI::Range(1, 1000));
  add("--max_upload_bytes", "FINETUNED_MAX_UPLOAD_BYTES",
      options.max_upload_bytes, "Bytes of an uploaded data set, unpacked")
      ->check(CLI::Range(uint64_t{1} << 10, uint64_t{1} << 45));
  add("--max_state_bytes", "FINETUNED_MAX_STATE_BYTES", options.max_state_bytes,
      "Bytes of the state folder, beyond which nothing is accepted; 0: any")
      ->check(CLI::Range(uint64_t{0}, uint64_t{1} << 50));
}

void AddClassify(const Adder& add, ServerOptions& options) {
  add("--max_images", "FINETUNED_MAX_IMAGES", options.max_images,
      "Images in a Classify request")
      ->check(CLI::Range(1, 10'000));
  add("--max_image_bytes", "FINETUNED_MAX_IMAGE_BYTES", options.max_image_bytes,
      "Bytes of an encoded image to classify")
      ->check(CLI::Range(uint64_t{1}, uint64_t{1} << 30));
  add("--max_stream_items", "FINETUNED_MAX_STREAM_ITEMS",
      options.max_stream_items,
      "Images of a ClassifyStream in flight or with unread answers; more are "
      "not read")
      ->check(CLI::Range(1, 10'000));
  add("--max_image_pixels", "FINETUNED_MAX_IMAGE_PIXELS",
      options.max_image_pixels, "Pixels of an image, checked before decoding")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 30));
  add("--preprocess_threads", "FINETUNED_PREPROCESS_THREADS",
      options.preprocess_threads,
      "CPU threads that decode and transform images to classify")
      ->check(CLI::Range(1, 1024));
  add("--max_batch", "FINETUNED_MAX_BATCH", options.max_batch,
      "Images in one forward pass; 0: 8 on a CPU, 32 on CUDA")
      ->check(CLI::Range(0, 1024));
  add("--max_batch_delay", "FINETUNED_MAX_BATCH_DELAY", options.max_batch_delay,
      "Milliseconds that images which are ready may wait for others that are "
      "being decoded; a lone one never waits")
      ->check(CLI::Range(0, 10'000));
  add("--max_queued_images", "FINETUNED_MAX_QUEUED_IMAGES",
      options.max_queued_images, "Images that may wait; more are refused")
      ->check(CLI::Range(1, 1'000'000));
  add("--model_memory", "FINETUNED_MODEL_MEMORY", options.model_memory,
      "Bytes of models kept in memory; the one not used for longest goes first")
      ->check(CLI::Range(uint64_t{1} << 20, uint64_t{1} << 45));
}

}  // namespace

ServerOptions::ServerOptions()
    : state_dir(UserFolder("XDG_STATE_HOME", ".local/state") / "finetuned"),
      pretrained(UserFolder("TORCH_HOME", ".cache/torch") /
                 "hub/checkpoints/resnet18-f37072fd.pth"),
      threads(
          static_cast<int>(std::max(1u, std::thread::hardware_concurrency()))),
      decode_threads(threads),
      preprocess_threads(threads),
      trainer(FolderOfThisProgram() / "finetune-trainer") {}

void AddServerOptions(CLI::App& app, ServerOptions& options) {
  const Adder add{app};
  app.set_config("--config", "", "File of settings, one `name = value` a line");
  app.config_formatter(std::make_shared<SettingsFile>(app));
  AddListening(app, add, options);
  add("--state_dir", "FINETUNED_STATE_DIR", options.state_dir,
      "Folder for jobs and models; created if absent")
      ->check(Checked(CheckNamesAFolder));
  add("--data_root", "FINETUNED_DATA_ROOT", options.data_root,
      "Folder that all data sets lie in")
      ->check(CLI::ExistingDirectory);
  add("--pretrained", "FINETUNED_PRETRAINED", options.pretrained,
      "ResNet18's ImageNet weights: state_dict as .pth or .safetensors");
  add("--device", "FINETUNED_DEVICE", options.device,
      "auto (cuda:0 if it works, else cpu), cpu, cuda or cuda:N, where N "
      "counts "
      "what CUDA_VISIBLE_DEVICES leaves");
  add("--precision", "FINETUNED_PRECISION", options.precision,
      "What Classify computes in; other than fp32 on CUDA only. tf32: float32 "
      "whose convolutions round their inputs to 10 bits")
      ->check(CLI::IsMember({"fp32", "tf32", "fp16", "bf16"}));
  add("--threads", "FINETUNED_THREADS", options.threads,
      "CPU threads to compute with")
      ->check(CLI::Range(1, 1024));
  add("--decode_threads", "FINETUNED_DECODE_THREADS", options.decode_threads,
      "CPU threads that prepare a trainer's images")
      ->check(CLI::Range(1, 1024));
  AddOperations(add, options);
  AddJobs(add, options);
  AddClassify(add, options);
}

}  // namespace finetune
