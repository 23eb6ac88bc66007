// Images per second of whole training epochs, ours against another program's
// on the same photos in the same run, and their ratio.
//
//   training_benchmark --data DIR --weights FILE [--device cuda] [--epochs 2]
//       [--rounds 2] [--bare] [--profile]
//       [--against 'python recipe.py ... --epochs 2']
//
// --bare compares with steps over one batch that stays on the device: what is
// left of it for whole epochs tells what loading, metrics and waits cost.
// --profile prints which of the GPU's kernels an epoch spends its time in.
//
// The other program prints "train X img/s" for each epoch. The two take turns,
// so that a machine whose speed drifts is fair to both; each counts with its
// median.

#include <algorithm>
#include <cstdio>
#include <iostream>
#include <map>
#include <regex>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "server/data/dataset.h"
#include "server/data/normalize.h"
#include "server/model/device.h"
#include "server/training/fine_tuner.h"
#include "server/training/param_groups.h"
#include "torch/csrc/autograd/profiler_kineto.h"

namespace finetune {
namespace {

double Median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::nth_element(values.begin(), values.begin() + values.size() / 2,
                   values.end());
  return values[values.size() / 2];
}

std::vector<double> TrainOurs(const trainer::TrainerSpec& spec) {
  const Dataset dataset =
      ScanDataset(OpenImageFolder(spec.dataset_dir()).value(),
                  {.max_pixels = spec.max_image_pixels()},
                  spec.decode_threads())
          .value();
  FineTuner tuner = FineTuner::Create(spec, dataset).value();
  v1::Progress last;
  tuner.Run([&](const v1::Progress& progress) { last = progress; }, {})
      .status()
      .IgnoreError();
  std::vector<double> speeds;
  for (const v1::EpochMetrics& epoch : last.epochs()) {
    speeds.push_back(epoch.images_per_second());
  }
  return speeds;
}

// Of steps that see the same batch again and again.
double TrainBare(const trainer::TrainerSpec& spec, double seconds) {
  const torch::Device device(spec.device());
  ResNet18 net(2);
  net->to(device);
  ToChannelsLast(*net);
  net->train();
  torch::optim::SGD sgd = TwoGroupSgd(*net, spec.hyper_parameters());
  const int64_t batch = spec.hyper_parameters().batch_size();
  const torch::Tensor images =
      torch::randn({batch, 3, kInputSize, kInputSize}, device)
          .contiguous(at::MemoryFormat::ChannelsLast);
  const torch::Tensor labels =
      torch::zeros({batch}, torch::dtype(torch::kInt64).device(device));
  const auto train = [&](int steps) {
    const absl::Time start = absl::Now();
    for (int i = 0; i < steps; ++i) {
      sgd.zero_grad();
      torch::nn::functional::cross_entropy(net->forward(images), labels)
          .backward();
      Step(sgd);
    }
    if (device.is_cuda()) torch::cuda::synchronize(device.index());
    return absl::ToDoubleSeconds(absl::Now() - start) / steps;
  };
  train(3);
  const double step = train(3);
  const int steps = std::max(5, static_cast<int>(seconds / step));
  return static_cast<double>(batch) / train(steps);
}

// An epoch's kernels by the time they took on the GPU, the ten most.
void PrintProfile(trainer::TrainerSpec spec) {
  namespace profiler = torch::autograd::profiler;
  namespace impl = torch::profiler::impl;
  spec.mutable_hyper_parameters()->set_epochs(1);
  const impl::ProfilerConfig config(impl::ProfilerState::KINETO);
  const std::set<impl::ActivityType> activities = {impl::ActivityType::CUDA};
  profiler::prepareProfiler(config, activities);
  profiler::enableProfiler(config, activities);
  TrainOurs(spec);
  std::map<std::string, uint64_t> nanoseconds;
  uint64_t all = 0;
  const auto result = profiler::disableProfiler();
  for (const profiler::KinetoEvent& event : result->events()) {
    if (event.deviceType() != c10::DeviceType::CUDA) continue;
    nanoseconds[event.name()] += event.durationNs();
    all += event.durationNs();
  }
  std::vector<std::pair<uint64_t, std::string>> most;
  for (const auto& [name, time] : nanoseconds) most.emplace_back(time, name);
  std::sort(most.rbegin(), most.rend());
  if (most.size() > 10) most.resize(10);
  std::printf("profile: %.1f ms of the GPU in an epoch and its test\n",
              static_cast<double>(all) / 1e6);
  for (const auto& [time, name] : most) {
    std::printf("%5.1f %%  %.100s\n",
                100 * static_cast<double>(time) / static_cast<double>(all),
                name.c_str());
  }
}

std::vector<double> TrainTheirs(const std::string& command) {
  std::vector<double> speeds;
  FILE* const pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return speeds;
  const std::regex speed(R"(train ([0-9.]+) img/s)");
  char line[1024];
  while (fgets(line, sizeof(line), pipe) != nullptr) {
    std::cmatch match;
    if (std::regex_search(line, match, speed)) {
      speeds.push_back(std::stod(match[1]));
    }
  }
  pclose(pipe);
  return speeds;
}

int Main(int argc, char** argv) {
  trainer::TrainerSpec spec;
  std::string data, weights, against, device = "cpu";
  bool bare = false, profile = false, benchmark = false;
  int epochs = 2, rounds = 2, batch_size = 64;
  int threads = static_cast<int>(std::thread::hardware_concurrency());
  CLI::App app("Times whole training epochs.");
  app.add_option("--data", data)->required()->check(CLI::ExistingDirectory);
  app.add_option("--weights", weights)->required()->check(CLI::ExistingFile);
  app.add_option("--epochs", epochs, "In each round")->capture_default_str();
  app.add_option("--rounds", rounds)->capture_default_str();
  app.add_option("--batch-size", batch_size)->capture_default_str();
  app.add_option("--threads", threads)->capture_default_str();
  app.add_option("--device", device)->capture_default_str();
  app.add_flag("--bare", bare, "Compare with steps over one resident batch");
  app.add_flag("--profile", profile, "Print the ten most expensive kernels");
  app.add_flag("--cudnn-benchmark", benchmark, "Let cuDNN try its kernels");
  app.add_option("--against", against, "Command to compare with");
  CLI11_PARSE(app, argc, argv);

  spec.set_dataset_dir(data);
  spec.set_pretrained(weights);
  spec.set_device(ResolveDevice(device).value());
  spec.set_cudnn_benchmark(benchmark);
  spec.set_threads(threads);
  spec.set_decode_threads(threads);
  spec.set_max_image_pixels(DecodeLimits().max_pixels);
  auto& p = *spec.mutable_hyper_parameters();
  p.set_learning_rate(0.001);
  p.set_head_learning_rate(0.01);
  p.set_weight_decay(0.001);
  p.set_batch_size(batch_size);
  p.set_epochs(epochs);
  KeepFreedMemory();
  torch::set_num_threads(threads);

  std::vector<double> ours, theirs;
  for (int round = 0; round < rounds; ++round) {
    for (const double speed : TrainOurs(spec)) ours.push_back(speed);
    if (against.empty()) continue;
    for (const double speed : TrainTheirs(against)) theirs.push_back(speed);
  }
  std::printf("ours %.2f images/s on %d threads, median of %zu epochs\n",
              Median(ours), threads, ours.size());
  if (!theirs.empty()) {
    std::printf("theirs %.2f images/s, median of %zu epochs; ratio %.2f\n",
                Median(theirs), theirs.size(), Median(ours) / Median(theirs));
  }
  if (bare) {
    constexpr double kSeconds = 5;
    const double speed = TrainBare(spec, kSeconds);
    std::printf("bare loop %.2f images/s; ratio %.2f\n", speed,
                Median(ours) / speed);
  }
  if (profile) PrintProfile(spec);
  return 0;
}

}  // namespace
}  // namespace finetune

int main(int argc, char** argv) { return finetune::Main(argc, argv); }
