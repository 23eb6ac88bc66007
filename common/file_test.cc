#include "common/file.h"

#include <filesystem>

#include "common/testing/status_matchers.h"
#include "common/testing/temp_dir.h"
#include "gtest/gtest.h"

namespace finetune {
namespace {

using testing::IsOk;
using testing::StatusIs;
using testing::TempDir;

TEST(FileTest, WritesWhatIsReadAndLeavesNoTemporary) {
  const TempDir dir;
  const auto path = dir.path() / "a";
  ASSERT_THAT(WriteFileAtomically(path, "old"), IsOk());
  ASSERT_THAT(WriteFileAtomically(path, "new"), IsOk());

  EXPECT_EQ(*ReadFile(path, 100), "new");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir.path()), {}),
            1);
}

TEST(FileTest, FileLargerThanTheBoundIsRefused) {
  const TempDir dir;
  const auto path = dir.Write("a", "12345");
  EXPECT_THAT(ReadFile(path, 4), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(ReadFile(path, 5), IsOk());
}

TEST(FileTest, FolderAndMissingFileAreErrors) {
  const TempDir dir;
  EXPECT_THAT(ReadFile(dir.path(), 9),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(ReadFile(dir.path() / "none", 9),
              StatusIs(absl::StatusCode::kNotFound));
}

TEST(FileTest, FailedWriteKeepsTheOldContent) {
  const TempDir dir;
  const auto path = dir.Write("a", "old");
  std::filesystem::create_directory(dir.path() / "a.tmp");  // In the way.
  EXPECT_FALSE(WriteFileAtomically(path, "new").ok());
  EXPECT_EQ(*ReadFile(path, 9), "old");
}

TEST(FileTest, FolderIsWithinItselfAndNotWithinOneWhoseNameItExtends) {
  EXPECT_TRUE(IsWithin("/a/b", "/a/b"));
  EXPECT_TRUE(IsWithin("/a/b/c", "/a/b"));
  EXPECT_FALSE(IsWithin("/a/bc", "/a/b"));
  EXPECT_FALSE(IsWithin("/a", "/a/b"));
}

TEST(FileTest, FolderThatExistsIsNotReplaced) {
  const TempDir dir;
  dir.Write("from/a", "1");
  dir.Write("to/b", "2");
  EXPECT_FALSE(RenameDurably(dir.path() / "from", dir.path() / "to").ok());
  EXPECT_TRUE(std::filesystem::exists(dir.path() / "to/b"));
}

}  // namespace
}  // namespace finetune
