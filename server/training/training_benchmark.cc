// Images per second of whole training epochs, ours against another program's
// on the same photos in the same run, and their ratio.
//
//   training_benchmark --data DIR --weights FILE [--epochs 2] [--rounds 2]
//       [--against 'python recipe.py ... --epochs 2']
//
// The other program prints "train X img/s" for each epoch. The two take turns,
// so that a machine whose speed drifts is fair to both; each counts with its
// median.

#include <algorithm>
#include <cstdio>
#include <iostream>
#include <regex>
#include <string>
#include <thread>
#include <vector>

#include "CLI/CLI.hpp"
#include "server/data/dataset.h"
#include "server/training/fine_tuner.h"

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
  std::string data, weights, against;
  int epochs = 2, rounds = 2, batch_size = 64;
  int threads = static_cast<int>(std::thread::hardware_concurrency());
  CLI::App app("Times whole training epochs.");
  app.add_option("--data", data)->required()->check(CLI::ExistingDirectory);
  app.add_option("--weights", weights)->required()->check(CLI::ExistingFile);
  app.add_option("--epochs", epochs, "In each round")->capture_default_str();
  app.add_option("--rounds", rounds)->capture_default_str();
  app.add_option("--batch-size", batch_size)->capture_default_str();
  app.add_option("--threads", threads)->capture_default_str();
  app.add_option("--against", against, "Command to compare with");
  CLI11_PARSE(app, argc, argv);

  spec.set_dataset_dir(data);
  spec.set_pretrained(weights);
  spec.set_device("cpu");
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
  return 0;
}

}  // namespace
}  // namespace finetune

int main(int argc, char** argv) { return finetune::Main(argc, argv); }
