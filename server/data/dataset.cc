#include "server/data/dataset.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "common/file.h"
#include "common/rpc_status.h"
#include "common/sha256.h"
#include "common/status_macros.h"
#include "common/utf8.h"

namespace finetune {
namespace {

constexpr int kMaxListed = 100;  // Of the skipped, and of the duplicates.

// SHA-256 of a file, binary: there may be millions of them.
using FileHash = std::array<char, 32>;

absl::string_view AsView(const FileHash& hash) {
  return {hash.data(), hash.size()};
}

// What became of a sample's file.
struct Scanned {
  absl::Status status;  // OK if its image decodes.
  FileHash hash;        // If OK.
};

Scanned ScanFile(const std::filesystem::path& path,
                 const DecodeLimits& limits) {
  Scanned scanned;
  const absl::StatusOr<std::string> bytes =
      ReadFile(path, limits.max_file_bytes);
  scanned.status =
      bytes.ok() ? DecodeRgb(*bytes, limits).status() : bytes.status();
  if (scanned.status.ok()) {
    const std::string hash = absl::HexStringToBytes(Sha256Hex(*bytes));
    std::copy(hash.begin(), hash.end(), scanned.hash.begin());
  }
  return scanned;
}

std::vector<Scanned> ScanAll(const std::vector<Sample>& samples,
                             const DecodeLimits& limits, int threads) {
  std::vector<Scanned> results(samples.size());
  std::atomic<size_t> next = 0;
  std::vector<std::jthread> workers;
  for (int i = 0; i < threads; ++i) {
    workers.emplace_back([&] {
      for (size_t k = next++; k < samples.size(); k = next++) {
        results[k] = ScanFile(samples[k].path, limits);
      }
    });
  }
  workers.clear();  // Joins.
  return results;
}

std::string RelativeName(const Sample& sample,
                         const std::filesystem::path& root) {
  return sample.path.lexically_relative(root);
}

// Removes the samples that do not decode and notes why. Returns the hashes of
// the others.
std::vector<FileHash> KeepReadable(std::vector<Sample>& samples,
                                   const std::vector<Scanned>& results,
                                   const std::filesystem::path& root,
                                   v1::DatasetStats& stats) {
  std::vector<Sample> kept;
  std::vector<FileHash> hashes;
  for (size_t i = 0; i < samples.size(); ++i) {
    if (results[i].status.ok()) {
      kept.push_back(std::move(samples[i]));
      hashes.push_back(results[i].hash);
      continue;
    }
    stats.set_skipped_images(stats.skipped_images() + 1);
    if (stats.skipped_size() < kMaxListed) {
      auto* skipped = stats.add_skipped();
      skipped->set_path(ToUtf8(RelativeName(samples[i], root)));
      skipped->set_reason(ToUtf8(results[i].status.message()));
    }
  }
  samples = std::move(kept);
  return hashes;
}

// Each piece with its length before it, so that no two lists look the same.
void AddPiece(absl::string_view piece, Sha256& sha) {
  sha.Add(absl::StrCat(piece.size(), ":"));
  sha.Add(piece);
}

// Of a split: names, from the class folder on (the split's own may be test/ or
// val/), and contents, by their hashes.
void AddSplit(const std::vector<Sample>& samples,
              const std::vector<FileHash>& hashes,
              const std::filesystem::path& root, Sha256& sha) {
  sha.Add(absl::StrCat(samples.size(), ";"));
  for (size_t i = 0; i < samples.size(); ++i) {
    const std::string name = RelativeName(samples[i], root);
    AddPiece(absl::string_view(name).substr(name.find('/') + 1), sha);
    AddPiece(AsView(hashes[i]), sha);
  }
}

void FindDuplicates(const ImageFolder& folder,
                    const std::vector<FileHash>& train_hashes,
                    const std::vector<FileHash>& test_hashes,
                    v1::DatasetStats& stats) {
  absl::flat_hash_map<absl::string_view, size_t> in_train;
  in_train.reserve(train_hashes.size());
  for (size_t i = 0; i < train_hashes.size(); ++i) {
    in_train.emplace(AsView(train_hashes[i]), i);  // The first one stays.
  }
  for (size_t i = 0; i < test_hashes.size(); ++i) {
    const auto it = in_train.find(AsView(test_hashes[i]));
    if (it == in_train.end()) continue;
    stats.set_duplicate_images(stats.duplicate_images() + 1);
    if (stats.duplicates_size() == kMaxListed) continue;
    auto* pair = stats.add_duplicates();
    pair->set_test_path(ToUtf8(RelativeName(folder.test[i], folder.root)));
    pair->set_train_path(
        ToUtf8(RelativeName(folder.train[it->second], folder.root)));
  }
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
  Sha256 digest;
  for (const std::string& label : dataset.folder.classes) {
    AddPiece(label, digest);
  }
  std::vector<FileHash> hashes[2];
  std::vector<Sample>* const splits[] = {&dataset.folder.train,
                                         &dataset.folder.test};
  for (int i = 0; i < 2; ++i) {
    hashes[i] = KeepReadable(*splits[i], ScanAll(*splits[i], limits, threads),
                             dataset.folder.root, dataset.stats);
    AddSplit(*splits[i], hashes[i], dataset.folder.root, digest);
  }
  dataset.stats.set_digest(digest.Hex());
  FindDuplicates(dataset.folder, hashes[0], hashes[1], dataset.stats);
  CountClasses(dataset.folder, dataset.stats);
  RETURN_IF_ERROR(CheckTrainable(dataset));
  return dataset;
}

}  // namespace finetune
