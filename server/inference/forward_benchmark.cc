// Images per second of the forward pass alone on a CPU, with random weights:
// no decoding, no softmax. One line of JSON, by batch size.
//
//   forward_benchmark [--threads 2] [--batch 1 8 32] [--seconds 3]

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "CLI/CLI.hpp"
#include "server/data/normalize.h"
#include "server/inference/fused_resnet18.h"

namespace finetune {
namespace {

std::vector<float> Normal(size_t count, double deviation) {
  static std::mt19937 engine(1);
  std::normal_distribution<float> normal(0, static_cast<float>(deviation));
  std::vector<float> values(count);
  std::generate(values.begin(), values.end(), [&] { return normal(engine); });
  return values;
}

FoldedLayer Layer(int64_t in, int64_t out, int64_t kernel, int64_t stride) {
  const int64_t fan_in = in * kernel * kernel;
  return {in,
          out,
          kernel,
          stride,
          Normal(out * fan_in, std::sqrt(1.0 / static_cast<double>(fan_in))),
          Normal(out, 0.1)};
}

FoldedResNet18 RandomNet() {
  FoldedResNet18 net{.conv1 = Layer(3, 64, 7, 2), .fc = Layer(512, 1000, 1, 1)};
  for (int64_t in = 64, out = 64; out <= 512; in = out, out *= 2) {
    net.blocks.push_back({Layer(in, out, 3, out / in), Layer(out, out, 3, 1)});
    if (in != out) net.blocks.back().downsample = Layer(in, out, 1, 2);
    net.blocks.push_back({Layer(out, out, 3, 1), Layer(out, out, 3, 1)});
  }
  return net;
}

double ImagesPerSecond(FusedResNet18& net, int batch, int threads,
                       double seconds) {
  std::vector<uint8_t> pixels(batch * kInputBytes);
  std::generate(pixels.begin(), pixels.end(), std::mt19937(1));
  std::vector<const uint8_t*> inputs;
  for (int i = 0; i < batch; ++i) inputs.push_back(&pixels[i * kInputBytes]);
  for (int i = 0; i < 3; ++i) net.Forward(inputs, threads);
  const auto start = std::chrono::steady_clock::now();
  std::chrono::duration<double> elapsed{};
  int images = 0;
  while (elapsed.count() < seconds) {
    net.Forward(inputs, threads);
    images += batch;
    elapsed = std::chrono::steady_clock::now() - start;
  }
  return images / elapsed.count();
}

int Main(int argc, char** argv) {
  int threads = static_cast<int>(std::thread::hardware_concurrency());
  std::vector<int> batches = {1, 8, 32};
  double seconds = 3;
  CLI::App app("Times ResNet18's forward pass on a CPU.");
  app.add_option("--threads", threads)->capture_default_str();
  app.add_option("--batch", batches)->capture_default_str();
  app.add_option("--seconds", seconds, "Of each size")->capture_default_str();
  CLI11_PARSE(app, argc, argv);

  FusedResNet18 net(RandomNet());
  std::string line;
  for (const int batch : batches) {
    char text[64];
    std::snprintf(text, sizeof(text), "%s\"%d\": %.1f",
                  line.empty() ? "" : ", ", batch,
                  ImagesPerSecond(net, batch, threads, seconds));
    line += text;
  }
  std::printf(
      "{\"threads\": %d, \"images_per_second\": {%s}, \"bytes\": %llu}\n",
      threads, line.c_str(), static_cast<unsigned long long>(net.bytes()));
  return 0;
}

}  // namespace
}  // namespace finetune

int main(int argc, char** argv) { return finetune::Main(argc, argv); }
