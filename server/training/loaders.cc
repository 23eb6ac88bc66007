#include "server/training/loaders.h"

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

#include "common/status_macros.h"
#include "server/data/random.h"
#include "server/data/transforms.h"

namespace finetune {
namespace {

Loader::Options LoaderOptions(const trainer::TrainerSpec& spec,
                              AllocateFn allocate) {
  return {.batch_size = spec.hyper_parameters().batch_size(),
          .threads = spec.decode_threads(),
          .sample_bytes = kInputBytes,
          .allocate = std::move(allocate)};
}

DecodeLimits Limits(const trainer::TrainerSpec& spec) {
  return {.max_pixels = spec.max_image_pixels()};
}

}  // namespace

Loader TrainLoader(const trainer::TrainerSpec& spec, const Dataset& dataset,
                   uint64_t epoch, int64_t steps, AllocateFn allocate) {
  constexpr uint64_t kOrderStream = UINT64_MAX;  // No sample has this index.
  const uint64_t seed = spec.hyper_parameters().seed();
  const std::vector<Sample>& samples = dataset.folder.train;
  std::vector<size_t> order =
      RandomOrder(samples.size(), Random(seed, epoch, kOrderStream));
  const size_t done = steps * spec.hyper_parameters().batch_size();
  order.erase(order.begin(), order.begin() + std::min(done, order.size()));
  return Loader(LoaderOptions(spec, std::move(allocate)), std::move(order),
                [&samples, limits = Limits(spec), seed, epoch](
                    size_t i, uint8_t* image, int64_t* label) -> absl::Status {
                  ASSIGN_OR_RETURN(const RgbImage rgb,
                                   ReadImage(samples[i].path, limits));
                  TrainTransform(rgb, Random(seed, epoch, i), image);
                  *label = samples[i].label;
                  return absl::OkStatus();
                });
}

Loader TestLoader(const trainer::TrainerSpec& spec, const Dataset& dataset,
                  AllocateFn allocate) {
  const std::vector<Sample>& samples = dataset.folder.test;
  std::vector<size_t> in_order(samples.size());
  std::iota(in_order.begin(), in_order.end(), size_t{0});
  return Loader(LoaderOptions(spec, std::move(allocate)), std::move(in_order),
                [&samples, limits = Limits(spec)](
                    size_t i, uint8_t* image, int64_t* label) -> absl::Status {
                  ASSIGN_OR_RETURN(const RgbImage rgb,
                                   ReadImage(samples[i].path, limits));
                  TestTransform(rgb, image);
                  *label = samples[i].label;
                  return absl::OkStatus();
                });
}

}  // namespace finetune
