#include "server/inference/throughput.h"

#include "gtest/gtest.h"

namespace finetune {
namespace {

class ThroughputTest : public ::testing::Test {
 protected:
  void Add(size_t images, bool more, absl::Duration later) {
    now_ += later;
    throughput_.Add(images, more, now_);
  }

  absl::Time now_ = absl::FromUnixSeconds(1'000'000);
  Throughput throughput_;
};

TEST_F(ThroughputTest, IsUnknownUntilASecondOfWork) {
  Add(8, true, absl::ZeroDuration());
  EXPECT_FALSE(throughput_.Rate(now_));
  Add(8, true, absl::Milliseconds(800));
  EXPECT_FALSE(throughput_.Rate(now_));
  for (int i = 0; i < 9; ++i) Add(8, true, absl::Milliseconds(800));
  ASSERT_TRUE(throughput_.Rate(now_));
  EXPECT_NEAR(*throughput_.Rate(now_), 10, 1);
}

TEST_F(ThroughputTest, TimeWithoutWorkDoesNotCount) {
  for (int i = 0; i < 20; ++i) {
    Add(1, true, absl::Seconds(5));  // Idle since the last one.
    Add(5, false, absl::Milliseconds(500));
  }
  EXPECT_NEAR(*throughput_.Rate(now_), 10, 0.01);
}

TEST_F(ThroughputTest, FollowsAChangeAndGoesStale) {
  for (int i = 0; i < 100; ++i) Add(10, true, absl::Milliseconds(100));
  EXPECT_NEAR(*throughput_.Rate(now_), 100, 1);
  for (int i = 0; i < 20; ++i) Add(10, true, absl::Seconds(1));
  EXPECT_NEAR(*throughput_.Rate(now_), 10, 3);
  EXPECT_FALSE(throughput_.Rate(now_ + absl::Seconds(11)));
}

}  // namespace
}  // namespace finetune
