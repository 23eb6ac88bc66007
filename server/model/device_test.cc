#include "server/model/device.h"

#include <string>

#include "common/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "torch/torch.h"

namespace finetune {
namespace {

using testing::IsOk;
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

TEST(DeviceTest, CpuComputesAndNeverFailsForGood) {
  EXPECT_THAT(CheckDevice("cpu"), IsOk());
  EXPECT_TRUE(DeviceWorks("cpu"));
  EXPECT_EQ(DeviceText("cpu"), "cpu");
}

TEST(DeviceTest, GpuThatCannotBeUsedIsNamedOnOneLine) {
  const absl::Status status = CheckDevice("cuda:99");
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(std::string(status.message()),
              ::testing::StartsWith("cuda:99 cannot be used: "));
  EXPECT_THAT(std::string(status.message()),
              ::testing::Not(::testing::HasSubstr("\n")));
}

TEST(DeviceTest, LackOfGpuMemoryIsKnownInAllItsWords) {
  EXPECT_TRUE(IsOutOfGpuMemory("CUDA out of memory. Tried to allocate 1 GiB"));
  EXPECT_TRUE(IsOutOfGpuMemory("CUDA error: out of memory"));
  EXPECT_TRUE(IsOutOfGpuMemory("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when"));
  EXPECT_TRUE(IsOutOfGpuMemory("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"));
  EXPECT_TRUE(IsOutOfGpuMemory("NVML_SUCCESS == r INTERNAL ASSERT FAILED"));
  EXPECT_TRUE(IsOutOfGpuMemory(
      "GET was unable to find an engine to execute this computation"));
  EXPECT_FALSE(IsOutOfGpuMemory("CUDA error: an illegal memory access"));
}

TEST(DeviceTest, LackOfTheMachinesMemoryIsKnown) {
  std::string what;
  try {
    torch::empty({int64_t{1} << 56});
  } catch (const c10::Error& e) {
    what = e.what_without_backtrace();
  }
  EXPECT_TRUE(IsOutOfCpuMemory(what)) << what;
  EXPECT_FALSE(IsOutOfGpuMemory(what)) << what;
}

TEST(DeviceTest, GpuComputesAndIsNamed) {
  const auto gpu = ResolveDevice("cuda");
  if (!gpu.ok()) GTEST_SKIP() << gpu.status().message();
  EXPECT_THAT(CheckDevice(*gpu), IsOk());
  EXPECT_TRUE(DeviceWorks(*gpu));
  EXPECT_THAT(DeviceText(*gpu), ::testing::HasSubstr("compute capability"));
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
