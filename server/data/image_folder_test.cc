#include "server/data/image_folder.h"

#include "common/testing/status_matchers.h"
#include "common/testing/temp_dir.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace finetune {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::IsOk;
using testing::StatusIs;
using testing::TempDir;

std::string Message(const TempDir& dir) {
  const auto folder = OpenImageFolder(dir.path());
  EXPECT_THAT(folder, StatusIs(absl::StatusCode::kFailedPrecondition));
  return std::string(folder.status().message());
}

TEST(ImageFolderTest, ClassesAndFilesAreSortedAsTorchvisionDoes) {
  const TempDir dir;
  dir.Write("train/b/2.jpg", "");
  dir.Write("train/b/10.jpg", "");
  dir.Write("train/B/z.jpg", "");
  dir.Write("train/a/sub/x.jpg", "");
  dir.Write("val/a/1.jpg", "");

  const auto folder = OpenImageFolder(dir.path());
  ASSERT_TRUE(folder.ok()) << folder.status();
  EXPECT_THAT(folder->classes, ElementsAre("B", "a", "b"));
  std::vector<std::string> names;
  for (const Sample& sample : folder->train) {
    names.push_back(sample.path.lexically_relative(dir.path() / "train"));
  }
  EXPECT_THAT(names,
              ElementsAre("B/z.jpg", "a/sub/x.jpg", "b/10.jpg", "b/2.jpg"));
  EXPECT_EQ(folder->train[0].label, 0);
  EXPECT_EQ(folder->train[3].label, 2);
  ASSERT_EQ(folder->test.size(), 1u);
  EXPECT_EQ(folder->test[0].label, 1);
}

TEST(ImageFolderTest, HiddenFilesAreLeftOut) {
  const TempDir dir;
  for (const char* name : {"train/a/1", "train/b/1", "test/a/1",
                           "train/a/.DS_Store", "train/.cache/x"}) {
    dir.Write(name, "");
  }
  const auto folder = OpenImageFolder(dir.path());
  ASSERT_TRUE(folder.ok()) << folder.status();
  EXPECT_EQ(folder->train.size(), 2u);
  EXPECT_THAT(folder->classes, ElementsAre("a", "b"));
}

TEST(ImageFolderTest, SaysWhatIsMissing) {
  const TempDir dir;
  EXPECT_THAT(Message(dir), HasSubstr("train/<class>/"));
  dir.Write("train/a/1.jpg", "");
  EXPECT_THAT(Message(dir), HasSubstr("neither test/<class>/ nor val/"));
  std::filesystem::create_directories(dir.path() / "test/a");
  EXPECT_THAT(Message(dir), HasSubstr("1 class folder(s)"));
  std::filesystem::create_directories(dir.path() / "train/b");
  EXPECT_THAT(Message(dir), HasSubstr("train/b holds no file"));
  dir.Write("train/b/1.jpg", "");
  EXPECT_THAT(Message(dir), HasSubstr("test/ holds no file"));
  dir.Write("test/c/1.jpg", "");
  EXPECT_THAT(Message(dir), HasSubstr("test/c has no counterpart"));
}

TEST(ImageFolderTest, ClassNameThatIsNotUtf8IsRefused) {
  const TempDir dir;
  for (const char* name : {"train/a/1", "train/caf\xe9/1", "test/a/1"}) {
    dir.Write(name, "");
  }
  EXPECT_THAT(Message(dir), HasSubstr("caf\\xe9\" is not UTF-8"));
}

TEST(ImageFolderTest, DanglingLinksAreLeftOut) {
  const TempDir dir;
  for (const char* name : {"train/a/1", "train/b/1", "test/a/1"}) {
    dir.Write(name, "");
  }
  std::filesystem::create_symlink("nowhere", dir.path() / "train/a/link");
  std::filesystem::create_symlink("nowhere", dir.path() / "train/c");
  const auto folder = OpenImageFolder(dir.path());
  ASSERT_TRUE(folder.ok()) << folder.status();
  EXPECT_EQ(folder->train.size(), 2u);
}

TEST(ImageFolderTest, LinksMayNotLeadOutOfTheBoundary) {
  const TempDir dir;
  for (const char* split : {"train", "test"}) {
    dir.Write(std::filesystem::path("root/pets") / split / "cat/1.jpg", "");
    dir.Write(std::filesystem::path("root/pets") / split / "dog/1.jpg", "");
  }
  const auto root = std::filesystem::canonical(dir.path() / "root");
  dir.Write("root/shared/2.jpg", "");
  dir.Write("secret/3.jpg", "");
  std::filesystem::create_symlink(root / "shared/2.jpg",
                                  root / "pets/train/cat/2.jpg");
  EXPECT_THAT(OpenImageFolder(root / "pets", root), IsOk());
  EXPECT_THAT(OpenImageFolder(root / "pets", root / "pets"),
              StatusIs(absl::StatusCode::kPermissionDenied));

  std::filesystem::create_directory_symlink(dir.path() / "secret",
                                            root / "pets/train/fox");
  EXPECT_THAT(OpenImageFolder(root / "pets", root),
              StatusIs(absl::StatusCode::kPermissionDenied));
  EXPECT_THAT(OpenImageFolder(root / "pets"), IsOk());
}

}  // namespace
}  // namespace finetune
