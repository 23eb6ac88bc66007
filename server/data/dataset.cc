#include "server/data/dataset.h"

#include <atomic>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/file.h"
#include "common/rpc_status.h"
#include "common/status_macros.h"
#include "common/utf8.h"

namespace finetune {
namespace {

constexpr int kMaxSkippedListed = 100;

// One status per sample: OK if its image decodes.
std::vector<absl::Status> DecodeAll(const std::vector<Sample>& samples,
                                    const DecodeLimits& limits, int threads) {
  std::vector<absl::Status> results(samples.size());
  std::atomic<size_t> next = 0;
  std::vector<std::jthread> workers;
  for (int i = 0; i < threads; ++i) {
    workers.emplace_back([&] {
      for (size_t k = next++; k < samples.size(); k = next++) {
        results[k] = ReadImage(samples[k].path, limits).status();
      }
    });
  }
  workers.clear();  // Joins.
  return results;
}

// Removes the samples that do not decode and notes why.
void KeepReadable(std::vector<Sample>& samples,
                  const std::vector<absl::Status>& results,
                  const std::filesystem::path& root, v1::DatasetStats& stats) {
  std::vector<Sample> kept;
  for (size_t i = 0; i < samples.size(); ++i) {
    if (results[i].ok()) {
      kept.push_back(std::move(samples[i]));
      continue;
    }
    stats.set_skipped_images(stats.skipped_images() + 1);
    if (stats.skipped_size() < kMaxSkippedListed) {
      auto* skipped = stats.add_skipped();
      skipped->set_path(
          ToUtf8(samples[i].path.lexically_relative(root).native()));
      skipped->set_reason(ToUtf8(results[i].message()));
    }
  }
  samples = std::move(kept);
}

void CountClasses(const ImageFolder& folder, v1::DatasetStats& stats) {
  for (const std::string& label : folder.classes) {
    stats.add_classes()->set_label(label);
  }
  for (const Sample& sample : folder.train) {
    auto& count = *stats.mutable_classes(static_cast<int>(sample.label));
    count.set_train_images(count.train_images() + 1);
  }
  for (const Sample& sample : folder.test) {
    auto& count = *stats.mutable_classes(static_cast<int>(sample.label));
    count.set_test_images(count.test_images() + 1);
  }
  stats.set_train_images(static_cast<int64_t>(folder.train.size()));
  stats.set_test_images(static_cast<int64_t>(folder.test.size()));
}

absl::Status CheckTrainable(const Dataset& dataset) {
  const std::string name = dataset.folder.root.filename();
  const std::string first_reason =
      dataset.stats.skipped().empty()
          ? ""
          : absl::StrCat("; first skipped: ", dataset.stats.skipped(0).path(),
                         " (", dataset.stats.skipped(0).reason(), ")");
  for (const v1::ClassCount& count : dataset.stats.classes()) {
    if (count.train_images() > 0) continue;
    return PreconditionError(
        "DATASET", name,
        absl::StrCat("data set ", name, ": train/", count.label(),
                     " holds no readable image", first_reason));
  }
  if (dataset.stats.test_images() > 0) return absl::OkStatus();
  return PreconditionError(
      "DATASET", name,
      absl::StrCat("data set ", name, ": no readable test image",
                   first_reason));
}

}  // namespace

absl::StatusOr<RgbImage> ReadImage(const std::filesystem::path& path,
                                   const DecodeLimits& limits) {
  ASSIGN_OR_RETURN(const std::string bytes,
                   ReadFile(path, limits.max_file_bytes));
  return DecodeRgb(bytes, limits);
}

absl::StatusOr<Dataset> ScanDataset(ImageFolder folder,
                                    const DecodeLimits& limits, int threads) {
  Dataset dataset{.folder = std::move(folder)};
  for (std::vector<Sample>* split :
       {&dataset.folder.train, &dataset.folder.test}) {
    KeepReadable(*split, DecodeAll(*split, limits, threads),
                 dataset.folder.root, dataset.stats);
  }
  CountClasses(dataset.folder, dataset.stats);
  RETURN_IF_ERROR(CheckTrainable(dataset));
  return dataset;
}

}  // namespace finetune
