#include "server/data/dataset.h"

#include <filesystem>
#include <string>

#include "common/file.h"
#include "common/testing/status_matchers.h"
#include "common/testing/temp_dir.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace finetune {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using testing::StatusIs;
using testing::TempDir;

const fs::path kImages = fs::path(FINETUNE_TESTDATA) / "images";

std::string APhoto() {
  return *ReadFile(kImages / "landscape_420.jpg", 1 << 20);
}

absl::StatusOr<Dataset> Scan(const TempDir& dir) {
  auto folder = OpenImageFolder(dir.path());
  if (!folder.ok()) return folder.status();
  return ScanDataset(*std::move(folder), {}, /*threads=*/2);
}

TEST(ScanDatasetTest, FilesThatAreNoImagesAreSkippedWithTheReason) {
  const TempDir dir;
  const std::string photo = APhoto();
  dir.Write("train/a/1.jpg", photo);
  dir.Write("train/a/notes.txt", "hello");
  dir.Write("train/b/1.jpg", photo);
  dir.Write("train/b/cut.jpg", photo.substr(0, photo.size() / 2));
  dir.Write("test/b/1.jpg", photo);
  dir.Write("test/b/empty.png", "");

  const auto dataset = Scan(dir);
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  EXPECT_EQ(dataset->folder.train.size(), 2u);
  const v1::DatasetStats& stats = dataset->stats;
  EXPECT_EQ(stats.train_images(), 2);
  EXPECT_EQ(stats.test_images(), 1);
  EXPECT_EQ(stats.classes(1).label(), "b");
  EXPECT_EQ(stats.classes(1).train_images(), 1);
  EXPECT_EQ(stats.classes(1).test_images(), 1);
  ASSERT_EQ(stats.skipped_images(), 3);
  EXPECT_EQ(stats.skipped(0).path(), "train/a/notes.txt");
  EXPECT_THAT(stats.skipped(0).reason(), HasSubstr("not a JPEG"));
  EXPECT_EQ(stats.skipped(1).path(), "train/b/cut.jpg");
  EXPECT_THAT(stats.skipped(1).reason(), HasSubstr("Premature end"));
  EXPECT_THAT(stats.skipped(2).reason(), HasSubstr("empty"));
}

TEST(ScanDatasetTest, ClassWithoutAReadableImageIsAnError) {
  const TempDir dir;
  dir.Write("train/a/1.jpg", APhoto());
  dir.Write("train/b/1.jpg", "not a photo");
  dir.Write("test/a/1.jpg", APhoto());
  const auto dataset = Scan(dir);
  EXPECT_THAT(dataset, StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(std::string(dataset.status().message()),
              HasSubstr("train/b holds no readable image; first skipped: "
                        "train/b/1.jpg (not a JPEG"));
}

TEST(ScanDatasetTest, NoReadableTestImageIsAnError) {
  const TempDir dir;
  dir.Write("train/a/1.jpg", APhoto());
  dir.Write("train/b/1.jpg", APhoto());
  dir.Write("test/a/1.jpg", "not a photo");
  EXPECT_THAT(Scan(dir), StatusIs(absl::StatusCode::kFailedPrecondition));
}

TEST(ScanDatasetTest, OnlyTheFirstHundredSkippedAreListed) {
  const TempDir dir;
  dir.Write("train/a/1.jpg", APhoto());
  dir.Write("train/b/1.jpg", APhoto());
  dir.Write("test/a/1.jpg", APhoto());
  for (int i = 0; i < 120; ++i) {
    dir.Write("train/a/" + std::to_string(i) + ".txt", "x");
  }
  const auto dataset = Scan(dir);
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  EXPECT_EQ(dataset->stats.skipped_images(), 120);
  EXPECT_EQ(dataset->stats.skipped_size(), 100);
}

}  // namespace
}  // namespace finetune
