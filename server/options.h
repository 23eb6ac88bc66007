// finetuned's settings: command line, environment, configuration file.

#ifndef SERVER_OPTIONS_H_
#define SERVER_OPTIONS_H_

#include <cstdint>
#include <filesystem>
#include <string>

#include "CLI/CLI.hpp"

namespace finetune {

struct ServerOptions {
  std::string address = "127.0.0.1:50051";  // HOST:PORT; port 0: a free one.
  // Who may call; empty: nothing is asked for. As Authorizer, MakeServer-
  // Credentials and CheckBinding.
  std::filesystem::path token_file;
  bool create_token_file = false;  // Where it is absent; as CreateTokenFile.
  std::filesystem::path tls_cert;
  std::filesystem::path tls_key;
  std::filesystem::path tls_client_ca;
  bool insecure_bind = false;  // Open to the network without either.
  // HOST:PORT that Prometheus scrapes; empty: none. As insecure_bind for
  // `address`, another machine's needs insecure_bind: it has no TLS.
  std::string metrics_address;
  std::string log_format = "auto";         // "text", "json"; as LogOptions.
  std::string log_level = "info";          // As LogOptions.
  std::string log_requests = "all";        // "errors", "none".
  int drain_timeout = 30;                  // Seconds; see Server::Shutdown.
  std::filesystem::path state_dir;         // Jobs and models. Created.
  std::filesystem::path data_root = ".";   // Data sets are below it.
  std::filesystem::path pretrained;        // ResNet18's ImageNet weights.
  std::string device = "auto";             // As ResolveDevice.
  std::string precision = "fp32";          // Of Classify; as PredictorOptions.
  int threads;                             // CPU threads, >= 1.
  int trainer_threads = 0;                 // Of a trainer; 0: `threads`.
  int decode_threads;                      // Of a trainer, >= 1.
  std::string trainer_priority = "idle";   // As TrainerSpec.Priority.
  std::string trainer_step_wait = "auto";  // As TrainerSpec.StepWait.
  bool cudnn_benchmark = false;            // Of a trainer on a GPU.
  size_t max_queued_jobs = 16;
  int max_running_jobs = 1;      // Trainers at once, >= 1.
  int checkpoint_interval = 60;  // Of a trainer, in seconds, >= 1.
  int max_uploads = 4;           // Data sets that arrive at once, >= 1.
  uint64_t max_upload_bytes = uint64_t{10} << 30;  // Of one, unpacked.
  uint64_t max_state_bytes = uint64_t{100} << 30;  // state_dir; 0: no limit.
  int max_images = 64;                             // In a Classify request.
  uint64_t max_image_bytes = 16 << 20;             // Each, encoded.
  int64_t max_image_pixels = 64'000'000;           // Each, decoded.
  int max_message_bytes = 64 << 20;                // A whole request.
  size_t max_receive_bytes = 1 << 30;         // Requests that are arriving.
  int max_metadata_bytes = 8 << 10;           // A call's headers.
  int max_concurrent_streams = 1000;          // Calls on one connection.
  int preprocess_threads;                     // Of the server, >= 1.
  size_t max_batch = 0;                       // See MaxBatch.
  int max_batch_delay = 2;                    // Milliseconds, >= 0; as Batcher.
  size_t max_queued_images = 512;             // Waiting for one.
  uint64_t model_memory = uint64_t{2} << 30;  // Bytes of loaded models.
  // Images of a ClassifyStream in flight or with unread answers.
  int max_stream_items = 64;
  std::filesystem::path trainer;  // The finetune-trainer binary.

  // Defaults that depend on the machine: the number of cores, the user's
  // folders, where this program is.
  ServerOptions();
};

// Declares every setting on `app`, which then parses into `options`: flags, the
// file of --config (as SettingsFile) and the environment.
void AddServerOptions(CLI::App& app, ServerOptions& options);

}  // namespace finetune

#endif  // SERVER_OPTIONS_H_
