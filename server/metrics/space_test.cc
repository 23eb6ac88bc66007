#include "server/metrics/space.h"

#include "common/testing/temp_dir.h"
#include "gtest/gtest.h"

namespace finetune {
namespace {

using testing::TempDir;

TEST(SpaceTest, DiskHasAtLeastWhatIsFree) {
  const TempDir dir;
  const auto disk = DiskSpace(dir.path());
  ASSERT_TRUE(disk.has_value());
  EXPECT_GT(disk->total_bytes, 0u);
  EXPECT_LE(disk->free_bytes, disk->total_bytes);
  EXPECT_FALSE(DiskSpace(dir.path() / "absent").has_value());
}

TEST(SpaceTest, MemoryOfACgroupLeavesOutReclaimablePages) {
  const TempDir dir;
  dir.Write("memory.max", "1000\n");
  dir.Write("memory.current", "700\n");
  dir.Write("memory.stat", "anon 500\ninactive_file 100\nactive_file 90\n");
  const auto memory = MemorySpace(dir.path());
  ASSERT_TRUE(memory.has_value());
  EXPECT_EQ(memory->total_bytes, 1000u);
  EXPECT_EQ(memory->free_bytes, 400u);
}

TEST(SpaceTest, MemoryOfAnOldCgroupIsReadToo) {
  const TempDir dir;
  dir.Write("memory/memory.limit_in_bytes", "1000\n");
  dir.Write("memory/memory.usage_in_bytes", "1200\n");
  dir.Write("memory/memory.stat", "inactive_file 7\ntotal_inactive_file 50\n");
  const auto memory = MemorySpace(dir.path());
  ASSERT_TRUE(memory.has_value());
  EXPECT_EQ(memory->total_bytes, 1000u);
  EXPECT_EQ(memory->free_bytes, 0u);
}

TEST(SpaceTest, NoLimitIsNothing) {
  const TempDir none, version_1, version_2;
  version_1.Write("memory/memory.limit_in_bytes", "9223372036854771712\n");
  version_1.Write("memory/memory.usage_in_bytes", "700\n");
  version_2.Write("memory.max", "max\n");
  version_2.Write("memory.current", "700\n");
  for (const TempDir* dir : {&none, &version_1, &version_2}) {
    EXPECT_FALSE(MemorySpace(dir->path()).has_value());
  }
}

}  // namespace
}  // namespace finetune
