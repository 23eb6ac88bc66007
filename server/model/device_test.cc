#include "server/model/device.h"

#include "common/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace finetune {
namespace {

using testing::StatusIs;

TEST(DeviceTest, NamesOfNoDeviceAreRefused) {
  for (const char* name : {"", "gpu", "cuda:", "cuda:-1", "cuda:x"}) {
    EXPECT_THAT(ResolveDevice(name),
                StatusIs(absl::StatusCode::kInvalidArgument))
        << name;
  }
}

TEST(DeviceTest, GpuThatIsNotHereIsRefusedAndHasNoMemory) {
  EXPECT_THAT(ResolveDevice("cuda:99"),
              StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_FALSE(MemoryOfGpu("cuda:99").has_value());
}

TEST(DeviceTest, CpuHasNoGpuMemory) {
  EXPECT_EQ(*ResolveDevice("cpu"), "cpu");
  EXPECT_FALSE(MemoryOfGpu("cpu").has_value());
}

TEST(DeviceTest, GpuTellsItsMemory) {
  const auto gpu = ResolveDevice("cuda");
  if (!gpu.ok()) GTEST_SKIP() << gpu.status().message();
  const auto memory = MemoryOfGpu(*gpu);
  ASSERT_TRUE(memory.has_value());
  EXPECT_GT(memory->free_bytes, 0u);
  EXPECT_LT(memory->free_bytes, memory->total_bytes);
}

}  // namespace
}  // namespace finetune
