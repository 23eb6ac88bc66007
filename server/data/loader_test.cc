#include "server/data/loader.h"

#include <atomic>
#include <numeric>
#include <vector>

#include "common/testing/status_matchers.h"
#include "gtest/gtest.h"

namespace finetune {
namespace {

using testing::StatusIs;

std::vector<size_t> Order(size_t n) {
  std::vector<size_t> order(n);
  std::iota(order.rbegin(), order.rend(), size_t{0});
  return order;
}

// Sample i is the two bytes i and i + 128, modulo 256, with label i.
absl::Status LoadNumber(size_t i, uint8_t* image, int64_t* label) {
  image[0] = static_cast<uint8_t>(i);
  image[1] = static_cast<uint8_t>(i + 128);
  *label = static_cast<int64_t>(i);
  return absl::OkStatus();
}

struct Loaded {
  std::vector<size_t> sizes;
  std::vector<uint8_t> bytes;
  std::vector<int64_t> labels;
  bool operator==(const Loaded&) const = default;
};

Loaded LoadAll(int threads, size_t samples) {
  Loader loader({.batch_size = 4, .threads = threads, .sample_bytes = 2},
                Order(samples), LoadNumber);
  Loaded all;
  while (true) {
    const Batch* batch = *loader.Next();
    if (batch == nullptr) return all;
    all.sizes.push_back(batch->size);
    all.bytes.insert(all.bytes.end(), batch->images.get(),
                     batch->images.get() + 2 * batch->size);
    all.labels.insert(all.labels.end(), batch->labels.begin(),
                      batch->labels.begin() + batch->size);
  }
}

TEST(LoaderTest, BatchesFollowTheOrderAndTheLastIsSmaller) {
  const Loaded all = LoadAll(1, 10);
  EXPECT_EQ(all.sizes, (std::vector<size_t>{4, 4, 2}));
  EXPECT_EQ(all.labels, (std::vector<int64_t>{9, 8, 7, 6, 5, 4, 3, 2, 1, 0}));
  EXPECT_EQ(all.bytes[1], 137);
}

TEST(LoaderTest, NumberOfThreadsChangesNothing) {
  const Loaded one = LoadAll(1, 1001);
  EXPECT_EQ(LoadAll(4, 1001), one);
  EXPECT_EQ(LoadAll(13, 1001), one);
}

TEST(LoaderTest, NoSamplesNoBatches) {
  Loader loader({.batch_size = 4, .sample_bytes = 2}, {}, LoadNumber);
  EXPECT_EQ(*loader.Next(), nullptr);
  EXPECT_EQ(*loader.Next(), nullptr);
}

TEST(LoaderTest, ReadsNoFurtherAheadThanItMay) {
  std::atomic<size_t> loaded = 0;
  Loader loader(
      {.batch_size = 2, .threads = 3, .batches_ahead = 2, .sample_bytes = 2},
      Order(100), [&](size_t i, uint8_t* image, int64_t* label) {
        ++loaded;
        return LoadNumber(i, image, label);
      });
  for (size_t batch = 1; batch <= 50; ++batch) {
    ASSERT_NE(*loader.Next(), nullptr);
    // The one in use, two ahead.
    ASSERT_LE(loaded, 2 * (batch + 2));
  }
}

TEST(LoaderTest, FirstFailureOfABatchIsItsErrorWhateverTheTiming) {
  for (int round = 0; round < 20; ++round) {
    Loader loader({.batch_size = 8, .threads = 4, .sample_bytes = 2}, Order(16),
                  [](size_t i, uint8_t* image, int64_t* label) -> absl::Status {
                    if (i == 5) return absl::NotFoundError("5");
                    if (i == 2) return absl::NotFoundError("2");
                    return LoadNumber(i, image, label);
                  });
    ASSERT_NE(*loader.Next(), nullptr);
    const auto failed = loader.Next();
    ASSERT_THAT(failed, StatusIs(absl::StatusCode::kNotFound));
    EXPECT_EQ(failed.status().message(), "5");  // The order is descending.
  }
}

TEST(LoaderTest, CanBeDroppedBeforeItsEnd) {
  Loader loader({.batch_size = 8, .threads = 4, .sample_bytes = 2},
                Order(10'000), LoadNumber);
  ASSERT_NE(*loader.Next(), nullptr);
}  // Ends, or this test times out.

}  // namespace
}  // namespace finetune
