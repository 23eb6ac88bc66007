#include "server/inference/model_cache.h"

#include "common/testing/status_matchers.h"
#include "gtest/gtest.h"

namespace finetune {
namespace {

using testing::StatusIs;

v1::Model Model(const std::string& name) {
  v1::Model model;
  model.mutable_ref()->set_name(name);
  model.mutable_ref()->set_version(1);
  return model;
}

class ModelCacheTest : public ::testing::Test {
 protected:
  absl::StatusOr<ClassifyFn> Load(const v1::Model& model) {
    ++loads_;
    if (model.ref().name() == "bad") return absl::DataLossError("damaged");
    return ClassifyFn();
  }

  int loads_ = 0;
  ModelCache cache_{/*capacity=*/2,
                    [this](const v1::Model& model) { return Load(model); }};
};

TEST_F(ModelCacheTest, LoadsOnce) {
  const auto first = cache_.Get(Model("a"));
  const auto second = cache_.Get(Model("a"));
  EXPECT_EQ(*first, *second);
  EXPECT_EQ(loads_, 1);
}

TEST_F(ModelCacheTest, UnloadsTheOneNotUsedForLongest) {
  std::weak_ptr<const Servable> a = *cache_.Get(Model("a"));
  std::weak_ptr<const Servable> b = *cache_.Get(Model("b"));
  ASSERT_TRUE(cache_.Get(Model("a")).ok());
  ASSERT_TRUE(cache_.Get(Model("c")).ok());
  EXPECT_FALSE(a.expired());
  EXPECT_TRUE(b.expired());
}

TEST_F(ModelCacheTest, UnloadedModelLivesWhileItIsHeld) {
  const auto held = *cache_.Get(Model("a"));
  ASSERT_TRUE(cache_.Get(Model("b")).ok());
  ASSERT_TRUE(cache_.Get(Model("c")).ok());
  EXPECT_EQ(held->model.ref().name(), "a");
}

TEST_F(ModelCacheTest, FailureIsReturnedAndTriedAgain) {
  EXPECT_THAT(cache_.Get(Model("bad")), StatusIs(absl::StatusCode::kDataLoss));
  EXPECT_FALSE(cache_.Get(Model("bad")).ok());
  EXPECT_EQ(loads_, 2);
}

}  // namespace
}  // namespace finetune
