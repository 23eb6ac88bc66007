#include "server/training/warnings.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace finetune {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::string Overshoot(double loss, int64_t classes) {
  v1::EpochMetrics epoch;
  epoch.set_epoch(2);
  epoch.set_train_loss(loss);
  v1::HyperParameters p;
  p.set_learning_rate(0.01);
  p.set_head_learning_rate(0.1);
  return OvershootWarning(epoch, classes, p);
}

TEST(WarningsTest, OvershootNamesEpochLossRatesAndWhatToTry) {
  EXPECT_THAT(Overshoot(6.3, 2),
              AllOf(HasSubstr("epoch 2 "), HasSubstr("loss is 6.3"),
                    HasSubstr("3 x ln(2) = 2.08"),
                    HasSubstr("0.01 (features) and 0.1 (fc)"),
                    HasSubstr("0.001 and 0.01")));
}

TEST(WarningsTest, LimitOfOvershootGrowsWithTheClasses) {
  EXPECT_EQ(Overshoot(2.07, 2), "");
  EXPECT_NE(Overshoot(2.09, 2), "");
  EXPECT_EQ(Overshoot(20, 1000), "");
}

TEST(WarningsTest, DuplicatesAreCountedWithAnExample) {
  v1::DatasetStats stats;
  EXPECT_EQ(DuplicatesWarning(stats), "");
  stats.set_test_images(10);
  stats.set_duplicate_images(3);
  stats.add_duplicates()->set_test_path("test/a/1.jpg");
  stats.mutable_duplicates(0)->set_train_path("train/a/7.jpg");
  EXPECT_THAT(DuplicatesWarning(stats),
              AllOf(HasSubstr("3 of 10 test images"),
                    HasSubstr("test/a/1.jpg (train/a/7.jpg)"),
                    HasSubstr("remove them")));
}

}  // namespace
}  // namespace finetune
