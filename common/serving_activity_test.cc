#include "common/serving_activity.h"

#include <fcntl.h>
#include <unistd.h>

#include "common/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace finetune {
namespace {

using testing::IsOk;
using testing::StatusIs;

TEST(ServingActivityTest, ReaderSeesWhatTheServerNotes) {
  const auto server = ServingActivity::Create();
  ASSERT_THAT(server, IsOk());
  const auto trainer = ServingActivity::Open((*server)->fd());
  ASSERT_THAT(trainer, IsOk());
  EXPECT_FALSE((*trainer)->WithinLast(absl::Hours(1)));
  (*server)->Note();
  EXPECT_TRUE((*trainer)->WithinLast(absl::Hours(1)));
  EXPECT_FALSE((*trainer)->WithinLast(absl::ZeroDuration()));
}

TEST(ServingActivityTest, WhatIsNoPageIsRefused) {
  const int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
  EXPECT_THAT(ServingActivity::Open(null),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(ServingActivity::Open(-1),
              StatusIs(absl::StatusCode::kInvalidArgument));
  close(null);
}

}  // namespace
}  // namespace finetune
