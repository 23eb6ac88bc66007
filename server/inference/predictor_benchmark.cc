// Images per second of a served model's forward pass on a device, copies
// included: no decoding. One line of JSON, by batch size, with the memory that
// the model says it takes and what the GPU says.
//
//   predictor_benchmark --weights FILE [--device cuda] [--precision fp16]
//       [--batch 1 8 64] [--seconds 1]

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "CLI/CLI.hpp"
#include "nlohmann/json.hpp"
#include "server/data/normalize.h"
#include "server/inference/predictor.h"
#include "server/model/device.h"

namespace finetune {
namespace {

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Of `callers` threads that each ask for batch after batch.
double ImagesPerSecond(const LoadedModel& model, const std::string& device,
                       int batch, int callers, double seconds) {
  const Buffer pixels = device == "cpu" ? AllocateOnHeap(batch * kInputBytes)
                                        : AllocatePinned(batch * kInputBytes);
  std::generate_n(pixels.get(), batch * kInputBytes, std::mt19937(1));
  std::vector<const uint8_t*> inputs;
  for (int i = 0; i < batch; ++i) inputs.push_back(&pixels[i * kInputBytes]);
  for (int i = 0; i < 3; ++i) model.forward(inputs, 1);
  std::vector<int64_t> images(callers);
  const auto start = Clock::now();
  {
    std::vector<std::jthread> threads;
    for (int64_t& answered : images) {
      threads.emplace_back([&] {
        while (SecondsSince(start) < seconds) {
          model.forward(inputs, 1);
          answered += batch;
        }
      });
    }
  }
  int64_t all = 0;
  for (const int64_t answered : images) all += answered;
  return static_cast<double>(all) / SecondsSince(start);
}

int64_t FreeBytes(const std::string& device) {
  const auto memory = MemoryOfGpu(device);
  return memory ? static_cast<int64_t>(memory->free_bytes) : 0;
}

int Main(int argc, char** argv) {
  std::string weights, device = "auto";
  int64_t classes = 1000;
  std::vector<int> batches = {1, 8, 32};
  double seconds = 1;
  PredictorOptions options;
  CLI::App app("Times a served model's forward pass.");
  app.add_option("--weights", weights)->required()->check(CLI::ExistingFile);
  app.add_option("--classes", classes, "That the weights are for")
      ->capture_default_str();
  app.add_option("--device", device)->capture_default_str();
  app.add_option("--precision", options.precision)->capture_default_str();
  app.add_option("--batch", batches)->capture_default_str();
  app.add_option("--seconds", seconds, "Of each size")->capture_default_str();
  CLI11_PARSE(app, argc, argv);

  options.device = ResolveDevice(device).value();
  options.max_batch = *std::max_element(batches.begin(), batches.end());
  options.on_warning = [](const std::string& warning) {
    std::cerr << warning << std::endl;
  };
  CheckDevice(options.device).IgnoreError();  // What the process itself takes.
  const int64_t free_before = FreeBytes(options.device);
  const auto start = Clock::now();
  const absl::StatusOr<LoadedModel> model =
      LoadPredictor(weights, classes, options);
  if (!model.ok()) {
    std::cerr << model.status() << std::endl;
    return 1;
  }
  nlohmann::ordered_json line = {{"device", options.device},
                                 {"precision", options.precision},
                                 {"load_seconds", SecondsSince(start)}};
  const int callers = options.device == "cpu" ? 1 : kCudaWorkers;
  for (const int batch : batches) {
    line["images_per_second"][std::to_string(batch)] =
        ImagesPerSecond(*model, options.device, batch, callers, seconds);
  }
  line["bytes"] = model->bytes;
  line["device_bytes"] = free_before - FreeBytes(options.device);
  std::cout << line.dump() << std::endl;
  return 0;
}

}  // namespace
}  // namespace finetune

int main(int argc, char** argv) { return finetune::Main(argc, argv); }
