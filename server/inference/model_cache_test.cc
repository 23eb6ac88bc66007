#include "server/inference/model_cache.h"

#include <atomic>
#include <future>
#include <string>
#include <thread>

#include "common/rpc_status.h"
#include "common/testing/status_matchers.h"
#include "gtest/gtest.h"
#include "server/inference/testing/gate.h"

namespace finetune {
namespace {

using testing::Gate;
using testing::IsOk;
using testing::StatusIs;

v1::Model Model(const std::string& name) {
  v1::Model model;
  model.mutable_ref()->set_name(name);
  model.mutable_ref()->set_version(1);
  return model;
}

// Models have 10 bytes, "large" has 100, "bad" does not load, and "slow" waits
// at the gate. There is room for 20 bytes.
class ModelCacheTest : public ::testing::Test {
 protected:
  absl::StatusOr<LoadedModel> Load(const v1::Model& model) {
    ++loads_;
    if (model.ref().name() == "slow") gate_.Pass();
    if (model.ref().name() == "bad") return absl::DataLossError("damaged");
    return LoadedModel{.bytes = model.ref().name() == "large" ? 100u : 10u};
  }
  std::weak_ptr<const Servable> LoadWeakly(const std::string& name) {
    return *cache_.Load(Model(name));
  }
  // A Get whose answer comes later.
  std::future<ModelCache::LoadedServable> Get(const std::string& name) {
    const auto answer =
        std::make_shared<std::promise<ModelCache::LoadedServable>>();
    cache_.Get(Model(name), [answer](ModelCache::LoadedServable servable) {
      answer->set_value(std::move(servable));
    });
    return answer->get_future();
  }
  static bool IsThere(const std::future<ModelCache::LoadedServable>& answer) {
    return answer.wait_for(std::chrono::seconds(0)) ==
           std::future_status::ready;
  }

  Gate gate_;
  std::atomic<int> loads_ = 0;
  ModelCache cache_{/*max_bytes=*/20,
                    [this](const v1::Model& model) { return Load(model); }};
};

TEST_F(ModelCacheTest, LoadsOnceAndThenAnswersAtOnce) {
  const auto first = cache_.Load(Model("a"));
  ASSERT_THAT(first, IsOk());
  auto second = Get("a");
  ASSERT_TRUE(IsThere(second));
  EXPECT_EQ(*second.get(), *first);
  EXPECT_EQ(loads_, 1);
}

TEST_F(ModelCacheTest, VersionWithOtherWeightsIsAnotherModel) {
  v1::Model again = Model("a");
  again.set_weights_sha256("other");
  EXPECT_NE(*cache_.Load(Model("a")), *cache_.Load(again));
}

TEST_F(ModelCacheTest, CallersOfOneModelShareItsLoad) {
  auto first = Get("slow");
  gate_.AwaitEntered();
  auto second = Get("slow");
  EXPECT_FALSE(IsThere(first));
  gate_.Open();
  EXPECT_EQ(*first.get(), *second.get());
  EXPECT_EQ(loads_, 1);
}

TEST_F(ModelCacheTest, ModelInMemoryAnswersWhileAnotherLoads) {
  ASSERT_THAT(cache_.Load(Model("a")), IsOk());
  auto slow = Get("slow");
  gate_.AwaitEntered();
  EXPECT_TRUE(IsThere(Get("a")));
  auto next = Get("b");
  EXPECT_FALSE(IsThere(next));
  gate_.Open();
  EXPECT_THAT(next.get(), IsOk());
  EXPECT_TRUE(IsThere(slow));
}

TEST_F(ModelCacheTest, GivesUpTheModelNotUsedForLongest) {
  const auto a = LoadWeakly("a");
  const auto b = LoadWeakly("b");
  ASSERT_THAT(cache_.Load(Model("a")), IsOk());
  ASSERT_THAT(cache_.Load(Model("c")), IsOk());
  cache_.Shutdown();
  EXPECT_FALSE(a.expired());
  EXPECT_TRUE(b.expired());
  EXPECT_EQ(cache_.stats().models, 2u);
  EXPECT_EQ(cache_.stats().bytes, 20u);
  EXPECT_EQ(cache_.stats().evictions, 1u);
}

TEST_F(ModelCacheTest, ModelComesBackOnDemand) {
  for (const char* name : {"a", "b", "c", "a"}) {
    EXPECT_THAT(cache_.Load(Model(name)), IsOk());
  }
  EXPECT_EQ(loads_, 4);
  EXPECT_EQ(cache_.stats().loads, 4u);
}

TEST_F(ModelCacheTest, ModelAboveTheLimitIsServedAlone) {
  ASSERT_THAT(cache_.Load(Model("a")), IsOk());
  ASSERT_THAT(cache_.Load(Model("large")), IsOk());
  ASSERT_THAT(cache_.Load(Model("large")), IsOk());
  EXPECT_EQ(loads_, 2);
  EXPECT_EQ(cache_.stats().bytes, 100u);
  ASSERT_THAT(cache_.Load(Model("a")), IsOk());
  EXPECT_EQ(cache_.stats().bytes, 10u);
}

TEST_F(ModelCacheTest, ModelThatWasGivenUpLivesWhileItIsHeld) {
  const auto held = *cache_.Load(Model("a"));
  ASSERT_THAT(cache_.Load(Model("b")), IsOk());
  ASSERT_THAT(cache_.Load(Model("c")), IsOk());
  EXPECT_EQ(held->model.ref().name(), "a");
}

TEST_F(ModelCacheTest, FailureIsReturnedAndTriedAgain) {
  EXPECT_THAT(cache_.Load(Model("bad")), StatusIs(absl::StatusCode::kDataLoss));
  EXPECT_THAT(Get("bad").get(), StatusIs(absl::StatusCode::kDataLoss));
  EXPECT_EQ(loads_, 2);
  EXPECT_EQ(cache_.stats().failed_loads, 2u);
  EXPECT_EQ(cache_.stats().models, 0u);
}

TEST_F(ModelCacheTest, DroppedModelIsForgotten) {
  const auto a = LoadWeakly("a");
  auto slow = Get("slow");
  gate_.AwaitEntered();
  cache_.Drop(Model("a").ref());
  cache_.Drop(Model("slow").ref());
  gate_.Open();
  EXPECT_THAT(slow.get(), IsOk());
  cache_.Shutdown();
  EXPECT_TRUE(a.expired());
  EXPECT_EQ(cache_.stats().models, 0u);
  EXPECT_EQ(cache_.stats().bytes, 0u);
}

TEST_F(ModelCacheTest, TooManyWaitersAreRefusedButStartUpIsNot) {
  std::vector<std::future<ModelCache::LoadedServable>> waiting;
  for (size_t i = 0; i < ModelCache::kMaxWaiting; ++i) {
    waiting.push_back(Get("slow"));
  }
  EXPECT_THAT(Get("a").get(), StatusIs(absl::StatusCode::kUnavailable));
  auto start_up = std::async(std::launch::async,
                             [this] { return cache_.Load(Model("b")); });
  gate_.Open();
  EXPECT_THAT(start_up.get(), IsOk());
  for (auto& answer : waiting) EXPECT_THAT(answer.get(), IsOk());
}

TEST_F(ModelCacheTest, ShutdownAnswersAllWhoWait) {
  auto slow = Get("slow");
  gate_.AwaitEntered();
  auto next = Get("a");
  auto shutdown = std::async(std::launch::async, [this] { cache_.Shutdown(); });
  // From when the shutdown has begun, everybody is told so.
  for (auto late = Get("a");
       !IsThere(late) || late.get().status() != ShuttingDownError();
       late = Get("a")) {
    std::this_thread::yield();
  }
  gate_.Open();
  shutdown.get();
  EXPECT_THAT(slow.get(), IsOk());
  EXPECT_THAT(next.get(), StatusIs(absl::StatusCode::kUnavailable));
}

}  // namespace
}  // namespace finetune
