#include "server/state_folder.h"

#include <sys/stat.h>

#include <filesystem>

#include "common/testing/status_matchers.h"
#include "common/testing/temp_dir.h"
#include "gtest/gtest.h"

namespace finetune {
namespace {

using testing::IsOk;
using testing::TempDir;

mode_t ModeOf(const std::filesystem::path& path) {
  struct stat info;
  EXPECT_EQ(stat(path.c_str(), &info), 0);
  return info.st_mode & 07777;
}

TEST(StateFolderTest, NewFolderIsForItsOwnUserAlone) {
  const TempDir dir;
  EXPECT_THAT(StateFolder::Open(dir.path() / "new/state"), IsOk());
  EXPECT_EQ(ModeOf(dir.path() / "new/state"), 0700u);
}

TEST(StateFolderTest, FolderThatOthersCouldOpenIsClosedToThem) {
  const TempDir dir;
  ASSERT_EQ(chmod(dir.path().c_str(), 0755), 0);
  EXPECT_THAT(StateFolder::Open(dir.path()), IsOk());
  EXPECT_EQ(ModeOf(dir.path()), 0700u);
}

TEST(StateFolderTest, FolderThatAllUsersShareStaysTheirs) {
  const TempDir dir;
  ASSERT_EQ(chmod(dir.path().c_str(), 01777), 0);
  EXPECT_THAT(StateFolder::Open(dir.path()), IsOk());
  EXPECT_EQ(ModeOf(dir.path()), 01777u);
}

}  // namespace
}  // namespace finetune
