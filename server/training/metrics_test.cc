#include "server/training/metrics.h"

#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace finetune {
namespace {

using ::testing::ElementsAre;

// Logits whose largest is that of `predicted`.
torch::Tensor Logits(const std::vector<int64_t>& predicted, int64_t classes) {
  return torch::one_hot(torch::tensor(predicted), classes).to(torch::kFloat32);
}

TEST(SumsTest, MeanIsOverImagesAndNotOverBatches) {
  Sums sums(torch::kCPU);
  sums.Add(torch::tensor(1.0f), Logits({0, 1, 1}, 2),
           torch::tensor(std::vector<int64_t>{0, 1, 0}));
  sums.Add(torch::tensor(5.0f), Logits({0}, 2),
           torch::tensor(std::vector<int64_t>{0}));
  EXPECT_DOUBLE_EQ(sums.MeanLoss(), 2);
  EXPECT_DOUBLE_EQ(sums.Accuracy(), 0.75);
}

TEST(SumsTest, SumsThatGoOnFromOthersGiveTheSameBits) {
  const torch::Tensor logits = Logits({0, 1, 1}, 2);
  const torch::Tensor labels = torch::tensor(std::vector<int64_t>{0, 1, 0});
  Sums whole(torch::kCPU), first(torch::kCPU);
  for (Sums* sums : {&whole, &first}) {
    sums->Add(torch::tensor(0.1f), logits, labels);
  }
  Sums second(torch::kCPU, first.loss(), first.correct(), 3);
  for (Sums* sums : {&whole, &second}) {
    sums->Add(torch::tensor(0.7f), logits, labels);
  }
  EXPECT_EQ(second.loss(), whole.loss());
  EXPECT_EQ(second.MeanLoss(), whole.MeanLoss());
  EXPECT_EQ(second.Accuracy(), whole.Accuracy());
}

TEST(ConfusionMatrixTest, RowsAreTrueClassesAndAbsentClassesHaveZeroShares) {
  ConfusionMatrix matrix(3, torch::kCPU);
  matrix.Add(Logits({0, 1, 1}, 3),
             torch::tensor(std::vector<int64_t>{0, 0, 1}));
  matrix.Add(Logits({1}, 3), torch::tensor(std::vector<int64_t>{0}));
  v1::EpochMetrics metrics;
  matrix.Fill(metrics);
  EXPECT_THAT(metrics.confusion(), ElementsAre(1, 2, 0, 0, 1, 0, 0, 0, 0));
  ASSERT_EQ(metrics.classes_size(), 3);
  EXPECT_DOUBLE_EQ(metrics.classes(0).precision(), 1);
  EXPECT_DOUBLE_EQ(metrics.classes(0).recall(), 1.0 / 3);
  EXPECT_DOUBLE_EQ(metrics.classes(1).precision(), 1.0 / 3);
  EXPECT_DOUBLE_EQ(metrics.classes(1).recall(), 1);
  EXPECT_DOUBLE_EQ(metrics.classes(2).precision(), 0);
  EXPECT_DOUBLE_EQ(metrics.classes(2).recall(), 0);
}

TEST(ConfusionMatrixTest, ManyClassesHaveNoMatrixAndVeryManyNoShares) {
  for (const int64_t classes : {100, 101, 1000, 1001}) {
    ConfusionMatrix matrix(classes, torch::kCPU);
    matrix.Add(Logits({7}, classes), torch::tensor(std::vector<int64_t>{7}));
    v1::EpochMetrics metrics;
    matrix.Fill(metrics);
    EXPECT_EQ(metrics.confusion_size(), classes <= 100 ? classes * classes : 0);
    EXPECT_EQ(metrics.classes_size(), classes <= 1000 ? classes : 0);
    if (classes <= 1000) {
      EXPECT_DOUBLE_EQ(metrics.classes(7).recall(), 1);
    }
  }
}

}  // namespace
}  // namespace finetune
