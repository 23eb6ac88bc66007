// Images per second of CPU time that one core prepares for training: read,
// decode, RandomResizedCrop, flip, normalise.
// Reads: FINETUNE_DATASET  folder with train/<class>/ and test/ or val/

#include <cstdlib>
#include <numeric>
#include <utility>

#include "benchmark/benchmark.h"
#include "server/data/dataset.h"
#include "server/data/loader.h"
#include "server/data/transforms.h"

namespace finetune {
namespace {

ImageFolder Photos() {
  const char* root = std::getenv("FINETUNE_DATASET");
  auto folder = OpenImageFolder(root ? root : "FINETUNE_DATASET");
  if (!folder.ok()) {
    std::fprintf(stderr, "%s\n", folder.status().ToString().c_str());
    std::exit(1);
  }
  return *std::move(folder);
}

void BM_Decode(benchmark::State& state) {
  const std::vector<Sample> samples = Photos().train;
  size_t i = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(ReadImage(samples[i++ % samples.size()].path, {}));
  }
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(BM_Decode);

void BM_TestTransform(benchmark::State& state) {
  const RgbImage image = *ReadImage(Photos().train[0].path, {});
  std::vector<uint8_t> out(kInputBytes);
  for (auto _ : state) TestTransform(image, out.data());
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(BM_TestTransform);

// The time of the loader's one thread, as the process's.
void BM_LoadTrainingSet(benchmark::State& state) {
  const std::vector<Sample> samples = Photos().train;
  std::vector<size_t> order(samples.size());
  std::iota(order.begin(), order.end(), size_t{0});
  for (auto _ : state) {
    Loader loader({.threads = 1, .sample_bytes = kInputBytes}, order,
                  [&](size_t i, uint8_t* image, int64_t* label) {
                    auto rgb = ReadImage(samples[i].path, {});
                    if (rgb.ok()) TrainTransform(*rgb, Random(1, 1, i), image);
                    *label = samples[i].label;
                    return rgb.status();
                  });
    while (*loader.Next() != nullptr) {
    }
  }
  state.SetItemsProcessed(state.iterations() *
                          static_cast<int64_t>(samples.size()));
}
BENCHMARK(BM_LoadTrainingSet)->MeasureProcessCPUTime();

}  // namespace
}  // namespace finetune

BENCHMARK_MAIN();
