#include "server/inference/batcher.h"

#include <latch>
#include <stdexcept>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/time/clock.h"
#include "common/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace finetune {
namespace {

using ::testing::ElementsAre;
using testing::IsOk;
using testing::StatusIs;

// An "image" is a number, which is its own probability.
BatchResult Echo(absl::Span<const absl::string_view> images) {
  BatchResult result;
  for (const absl::string_view image : images) {
    float number = 0;
    if (absl::SimpleAtof(image, &number)) {
      result.images.push_back(Probabilities{number});
    } else {
      result.images.push_back(absl::InvalidArgumentError("no number"));
    }
  }
  return result;
}

std::shared_ptr<const Servable> Model(ClassifyFn classify) {
  return std::make_shared<Servable>(Servable{.classify = std::move(classify)});
}

// A model that holds up the batcher's thread until it is released, and notes
// the size of each batch.
class Gate {
 public:
  std::shared_ptr<const Servable> Loaded() {
    return Model([this](absl::Span<const absl::string_view> images) {
      entered_.count_down();
      open_.wait();
      sizes_.push_back(images.size());
      return Echo(images);
    });
  }
  void WaitUntilEntered() { entered_.wait(); }
  void Open() { open_.count_down(); }
  const std::vector<size_t>& sizes() const { return sizes_; }

 private:
  std::latch entered_{1}, open_{1};
  std::vector<size_t> sizes_;
};

// Submits and, in Get, waits for the outcome.
class Call {
 public:
  Call(Batcher& batcher, ClassifyWork work) {
    batcher.Submit(std::move(work),
                   [this](absl::StatusOr<ClassifyOutcome> outcome) {
                     outcome_ = std::move(outcome);
                     done_.count_down();
                   });
  }
  const absl::StatusOr<ClassifyOutcome>& Get() {
    done_.wait();
    return outcome_;
  }

 private:
  std::latch done_{1};
  absl::StatusOr<ClassifyOutcome> outcome_;
};

TEST(BatcherTest, ImagesAreAnsweredInOrderAndABadOneFailsAlone) {
  Batcher batcher({});
  Call call(batcher, {Model(Echo), {"1", "x", "3"}});
  ASSERT_THAT(call.Get(), IsOk());
  const auto& images = call.Get()->images;
  EXPECT_EQ((*images[0])[0], 1);
  EXPECT_THAT(images[1], StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_EQ((*images[2])[0], 3);
}

TEST(BatcherTest, RequestsThatWaitShareABatchUpToItsLimit) {
  Gate gate;
  Batcher batcher({.max_batch = 3});
  const auto model = gate.Loaded();
  Call first(batcher, {model, {"0"}});
  gate.WaitUntilEntered();
  Call second(batcher, {model, {"1", "2"}});
  Call third(batcher, {model, {"3", "4"}});
  gate.Open();
  ASSERT_THAT(third.Get(), IsOk());
  EXPECT_EQ((*third.Get()->images[1])[0], 4);
  EXPECT_EQ((*second.Get()->images[0])[0], 1);
  EXPECT_THAT(gate.sizes(), ElementsAre(1, 3, 1));
  EXPECT_EQ(second.Get()->batch_size, 3);
}

TEST(BatcherTest, ModelsDoNotShareABatch) {
  Gate gate;
  Batcher batcher({});
  Call first(batcher, {gate.Loaded(), {"0"}});
  gate.WaitUntilEntered();
  size_t others = 0;
  const auto other = Model([&](absl::Span<const absl::string_view> images) {
    others = images.size();
    return Echo(images);
  });
  Call second(batcher, {other, {"1"}});
  Call third(batcher, {gate.Loaded(), {"2"}});
  Call fourth(batcher, {other, {"3"}});
  gate.Open();
  ASSERT_THAT(third.Get(), IsOk());
  ASSERT_THAT(fourth.Get(), IsOk());
  EXPECT_EQ(others, 2u);
}

TEST(BatcherTest, FullQueueRefusesAtOnce) {
  Gate gate;
  Batcher batcher({.max_waiting = 2});
  const auto model = gate.Loaded();
  Call first(batcher, {model, {"0"}});
  gate.WaitUntilEntered();
  Call second(batcher, {model, {"1"}});
  Call third(batcher, {model, {"2", "3"}});
  EXPECT_THAT(third.Get(), StatusIs(absl::StatusCode::kResourceExhausted));
  gate.Open();
  EXPECT_THAT(second.Get(), IsOk());
}

TEST(BatcherTest, ExpiredAndAbandonedWorkIsNotExecuted) {
  Gate gate;
  Batcher batcher({});
  const auto model = gate.Loaded();
  Call first(batcher, {model, {"0"}});
  gate.WaitUntilEntered();
  Call expired(batcher, {model, {"1"}, absl::Now() - absl::Seconds(1)});
  Call abandoned(batcher,
                 {model, {"2"}, absl::InfiniteFuture(), [] { return true; }});
  gate.Open();
  EXPECT_THAT(expired.Get(), StatusIs(absl::StatusCode::kDeadlineExceeded));
  EXPECT_THAT(abandoned.Get(), StatusIs(absl::StatusCode::kCancelled));
  batcher.Shutdown();
  EXPECT_THAT(gate.sizes(), ElementsAre(1));
}

TEST(BatcherTest, ThrowingModelFailsItsImagesAndNothingElse) {
  Batcher batcher({});
  Call thrown(batcher,
              {Model([](absl::Span<const absl::string_view>) -> BatchResult {
                 throw std::runtime_error("CUDA error");
               }),
               {"1"}});
  ASSERT_THAT(thrown.Get(), IsOk());
  EXPECT_THAT(thrown.Get()->images[0], StatusIs(absl::StatusCode::kInternal));
  Call after(batcher, {Model(Echo), {"1"}});
  EXPECT_THAT(after.Get(), IsOk());
}

TEST(BatcherTest, ShutdownFinishesWhatWaitsAndRefusesWhatComes) {
  Gate gate;
  Batcher batcher({});
  const auto model = gate.Loaded();
  Call first(batcher, {model, {"0"}});
  gate.WaitUntilEntered();
  Call second(batcher, {model, {"1"}});
  gate.Open();
  batcher.Shutdown();
  EXPECT_THAT(first.Get(), IsOk());
  EXPECT_THAT(second.Get(), IsOk());
  Call late(batcher, {model, {"2"}});
  EXPECT_THAT(late.Get(), StatusIs(absl::StatusCode::kUnavailable));
}

}  // namespace
}  // namespace finetune
