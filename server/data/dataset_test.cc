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

class DigestTest : public ::testing::Test {
 protected:
  DigestTest() { WriteTo(dir_, "test"); }

  static void WriteTo(const TempDir& dir, const std::string& test) {
    const std::string photo = APhoto();
    dir.Write("train/a/1.jpg", photo);
    dir.Write("train/b/1.jpg", photo);
    dir.Write(test + "/a/1.jpg", photo);
  }
  static std::string DigestOf(const TempDir& dir) {
    return Scan(dir)->stats.digest();
  }

  const TempDir dir_;
};

TEST_F(DigestTest, EqualDataHasEqualDigestsWhereverItLies) {
  const TempDir other;
  WriteTo(other, "val");
  other.Write("train/a/notes.txt", "skipped files do not count");
  EXPECT_EQ(DigestOf(other), DigestOf(dir_));
  EXPECT_EQ(DigestOf(dir_).size(), 64u);
}

TEST_F(DigestTest, ContentNamesLabelsAndSplitsAllCount) {
  const std::string before = DigestOf(dir_);
  const fs::path photo = dir_.path() / "train/b/1.jpg";

  fs::rename(photo, dir_.path() / "train/b/2.jpg");
  EXPECT_NE(DigestOf(dir_), before);
  fs::rename(dir_.path() / "train/b/2.jpg", photo);
  EXPECT_EQ(DigestOf(dir_), before);

  dir_.Write("train/b/1.jpg", APhoto() + "1");  // After the JPEG's end.
  EXPECT_NE(DigestOf(dir_), before);
  dir_.Write("train/b/1.jpg", APhoto());

  fs::rename(dir_.path() / "train/b", dir_.path() / "train/c");
  EXPECT_NE(DigestOf(dir_), before);
  fs::rename(dir_.path() / "train/c", dir_.path() / "train/b");

  dir_.Write("train/a/2.jpg", APhoto());
  const std::string in_train = DigestOf(dir_);
  fs::rename(dir_.path() / "train/a/2.jpg", dir_.path() / "test/a/2.jpg");
  EXPECT_NE(DigestOf(dir_), in_train);
  EXPECT_NE(DigestOf(dir_), before);
}

TEST(ScanDatasetTest, TestImagesThatAreInTrainTooAreCountedAndListed) {
  const TempDir dir;
  const std::string photo = APhoto();
  dir.Write("train/a/1.jpg", photo + "a");
  dir.Write("train/b/1.jpg", photo + "b");
  dir.Write("train/b/2.jpg", photo + "b");
  dir.Write("train/b/broken", "no image");
  dir.Write("test/a/broken", "no image");  // Not used, so it does not count.
  dir.Write("test/a/own.jpg", photo + "c");
  for (int i = 0; i < 101; ++i) {
    dir.Write("test/b/" + std::to_string(i) + ".jpg", photo + "b");
  }
  const auto dataset = Scan(dir);
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  EXPECT_EQ(dataset->stats.duplicate_images(), 101);
  EXPECT_EQ(dataset->stats.duplicates_size(), 100);
  EXPECT_EQ(dataset->stats.duplicates(0).test_path(), "test/b/0.jpg");
  EXPECT_EQ(dataset->stats.duplicates(0).train_path(), "train/b/1.jpg");
}

}  // namespace
}  // namespace finetune
