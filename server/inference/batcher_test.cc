#include "server/inference/batcher.h"

#include <atomic>
#include <cstring>
#include <future>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/inference/testing/gate.h"

namespace finetune {
namespace {

using ::testing::ElementsAre;
using testing::Gate;
using testing::IsOk;
using testing::StatusIs;
using Model = std::shared_ptr<const Servable>;

constexpr absl::string_view kRetryInfo =
    "type.googleapis.com/google.rpc.RetryInfo";

// An "image" is a number, an int that is its input and its own probability.
absl::Status ReadNumber(absl::string_view image, absl::Span<uint8_t> input) {
  int number = 0;
  if (!absl::SimpleAtoi(image, &number)) {
    return absl::InvalidArgumentError("no number");
  }
  std::memcpy(input.data(), &number, sizeof(number));
  return absl::OkStatus();
}

// ReadNumber, but the image `held` is held up at `gate`.
PreprocessFn HoldingUp(absl::string_view held, Gate& gate) {
  return [held, &gate](absl::string_view image, absl::Span<uint8_t> input) {
    if (image == held) gate.Pass();
    return ReadNumber(image, input);
  };
}

std::vector<Probabilities> Echo(absl::Span<const uint8_t* const> inputs) {
  std::vector<Probabilities> outputs;
  for (const uint8_t* input : inputs) {
    int number = 0;
    std::memcpy(&number, input, sizeof(number));
    outputs.push_back({static_cast<float>(number)});
  }
  return outputs;
}

Model ModelOf(ForwardFn forward) {
  return std::make_shared<Servable>(
      Servable{.loaded = {.forward = std::move(forward)}});
}

Model EchoModel() {
  return ModelOf([](absl::Span<const uint8_t* const> inputs, int) {
    return Echo(inputs);
  });
}

// Whose forward passes stop at `gate`.
Model GatedModel(Gate& gate) {
  return ModelOf([&gate](absl::Span<const uint8_t* const> inputs, int) {
    gate.Pass();
    return Echo(inputs);
  });
}

// Submits and, in Get, waits for the outcome.
class Call {
 public:
  Call(Batcher& batcher, ClassifyWork work) {
    const auto answer =
        std::make_shared<std::promise<absl::StatusOr<ClassifyOutcome>>>();
    outcome_ = answer->get_future();
    batcher.Submit(std::move(work),
                   [answer](absl::StatusOr<ClassifyOutcome> outcome) {
                     answer->set_value(std::move(outcome));
                   });
  }
  const absl::StatusOr<ClassifyOutcome>& Get() { return outcome_.get(); }

 private:
  std::shared_future<absl::StatusOr<ClassifyOutcome>> outcome_;
};

class BatcherTest : public ::testing::Test {
 protected:
  // Delays are so long that a test which needs one to end does not.
  BatcherTest() {
    options_.input_bytes = sizeof(int);
    options_.max_delay = absl::Hours(1);
    options_.on_batch = [this](const v1::Model&, size_t images) {
      const MutexLock lock(mu_);
      sizes_.push_back(images);
    };
  }
  // Time stands still from now on, but for Advance.
  void StopTime() {
    options_.now = [this] { return absl::FromUnixMillis(millis_); };
  }
  void Advance(absl::Duration time) {
    millis_ += absl::ToInt64Milliseconds(time);
  }
  absl::Time After(absl::Duration time) const {
    return absl::FromUnixMillis(millis_) + time;
  }

  std::vector<size_t> sizes() {
    const MutexLock lock(mu_);
    return sizes_;
  }

  Batcher::Options options_;
  std::atomic<int64_t> millis_ = 1'000'000'000;
  Mutex mu_;
  std::vector<size_t> sizes_ ABSL_GUARDED_BY(mu_);  // Of the batches, in order.
};

TEST_F(BatcherTest, ImagesAreAnsweredInOrderAndABadOneFailsAlone) {
  Batcher batcher(options_, ReadNumber);
  Call call(batcher, {EchoModel(), {"1", "x", "3"}});
  ASSERT_THAT(call.Get(), IsOk());
  const auto& images = call.Get()->images;
  EXPECT_EQ((*images[0])[0], 1);
  EXPECT_THAT(images[1], StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_EQ((*images[2])[0], 3);
  EXPECT_EQ(call.Get()->batch_size, 2);
}

TEST_F(BatcherTest, LoneImageIsDecodedWhereItIsComputed) {
  std::vector<std::thread::id> threads;
  const auto note = [&] { threads.push_back(std::this_thread::get_id()); };
  options_.workers = 2;
  Batcher batcher(options_,
                  [&](absl::string_view image, absl::Span<uint8_t> input) {
                    note();
                    return ReadNumber(image, input);
                  });
  Call call(batcher,
            {ModelOf([&](absl::Span<const uint8_t* const> inputs, int) {
               note();
               return Echo(inputs);
             }),
             {"1"}});
  ASSERT_THAT(call.Get(), IsOk());
  ASSERT_EQ(threads.size(), 2u);
  EXPECT_EQ(threads[0], threads[1]);
}

TEST_F(BatcherTest, LoneImageGetsAllThreadsAtOnce) {
  options_.workers = 4;
  Batcher batcher(options_, ReadNumber);
  int threads = 0;
  const Model model =
      ModelOf([&](absl::Span<const uint8_t* const> inputs, int all) {
        threads = all;
        return Echo(inputs);
      });
  Call call(batcher, {model, {"1"}});
  ASSERT_THAT(call.Get(), IsOk());
  EXPECT_EQ(threads, 4);
}

TEST_F(BatcherTest, RequestsThatWaitShareABatchUpToItsLimit) {
  options_.max_batch = 3;
  Batcher batcher(options_, ReadNumber);
  Gate gate;
  const Model model = GatedModel(gate);
  Call first(batcher, {model, {"0"}});
  gate.AwaitEntered();
  Call second(batcher, {model, {"1", "2"}});
  Call third(batcher, {model, {"3", "4"}});
  gate.Open();
  ASSERT_THAT(third.Get(), IsOk());
  EXPECT_EQ((*third.Get()->images[1])[0], 4);
  EXPECT_EQ((*second.Get()->images[0])[0], 1);
  EXPECT_THAT(sizes(), ElementsAre(1, 3, 1));
  EXPECT_EQ(second.Get()->batch_size, 3);
}

TEST_F(BatcherTest, ModelsDoNotShareABatch) {
  Batcher batcher(options_, ReadNumber);
  Gate gate;
  const Model one = GatedModel(gate), other = EchoModel();
  Call first(batcher, {one, {"0"}});
  gate.AwaitEntered();
  Call second(batcher, {other, {"1"}});
  Call third(batcher, {one, {"2"}});
  Call fourth(batcher, {other, {"3"}});
  gate.Open();
  EXPECT_EQ(third.Get()->batch_size, 1);
  EXPECT_EQ(second.Get()->batch_size, 2);
  EXPECT_EQ(fourth.Get()->batch_size, 2);
}

TEST_F(BatcherTest, ForwardPassesOfAllWorkersAndDecodingRunAtOnce) {
  options_.workers = 2;
  Gate forward, decode;
  Batcher batcher(options_, HoldingUp("3", decode));
  const Model model = GatedModel(forward);
  Call first(batcher, {model, {"1"}});
  forward.AwaitEntered(1);
  Call second(batcher, {model, {"2"}});
  forward.AwaitEntered(2);
  Call third(batcher, {model, {"3"}});
  decode.AwaitEntered();
  EXPECT_EQ(batcher.stats().computing, 2u);
  EXPECT_EQ(batcher.stats().waiting, 1u);
  decode.Open();
  forward.Open();
  EXPECT_THAT(third.Get(), IsOk());
}

TEST_F(BatcherTest, ReadyImageWaitsForOneThatIsBeingDecoded) {
  options_.preprocess_threads = 2;
  Gate decode;
  Batcher batcher(options_, HoldingUp("1", decode));
  const Model model = EchoModel();
  Call slow(batcher, {model, {"1"}});
  decode.AwaitEntered();
  Call quick(batcher, {model, {"2"}});
  decode.Open();
  EXPECT_EQ(quick.Get()->batch_size, 2);
  EXPECT_EQ(slow.Get()->batch_size, 2);
}

TEST_F(BatcherTest, ReadyImageDoesNotWaitLongerThanTheDelay) {
  options_.preprocess_threads = 2;
  options_.max_delay = absl::Milliseconds(1);
  Gate decode;
  Batcher batcher(options_, HoldingUp("1", decode));
  const Model model = EchoModel();
  Call slow(batcher, {model, {"1"}});
  decode.AwaitEntered();
  Call quick(batcher, {model, {"2"}});
  EXPECT_EQ(quick.Get()->batch_size, 1);
  decode.Open();
  EXPECT_THAT(slow.Get(), IsOk());
}

TEST_F(BatcherTest, FullQueueRefusesAtOnceAndSaysWhenToTryAgain) {
  options_.max_waiting = 2;
  Batcher batcher(options_, ReadNumber);
  Gate gate;
  const Model model = GatedModel(gate);
  Call first(batcher, {model, {"0"}});
  gate.AwaitEntered();
  Call second(batcher, {model, {"1"}});
  Call third(batcher, {model, {"2", "3"}});
  EXPECT_THAT(third.Get(), StatusIs(absl::StatusCode::kResourceExhausted));
  EXPECT_TRUE(third.Get().status().GetPayload(kRetryInfo));
  EXPECT_EQ(batcher.stats().refused, 2u);
  gate.Open();
  EXPECT_THAT(second.Get(), IsOk());
}

TEST_F(BatcherTest, FullQueueGivesUpWhatNobodyWaitsForAnyMore) {
  StopTime();
  options_.max_waiting = 3;
  Gate decode, gate;
  Batcher batcher(options_, HoldingUp("9", decode));
  const Model model = GatedModel(gate);
  Call first(batcher, {model, {"0"}});
  gate.AwaitEntered();
  Call second(batcher, {model, {"9"}});
  decode.AwaitEntered();  // So that nothing else is being decoded.
  Call expired(batcher, {model, {"1", "2"}, After(absl::Seconds(1))});
  Advance(absl::Seconds(2));
  Call third(batcher, {model, {"3", "4"}});
  EXPECT_THAT(expired.Get(), StatusIs(absl::StatusCode::kDeadlineExceeded));
  EXPECT_EQ(batcher.stats().expired, 2u);
  decode.Open();
  gate.Open();
  EXPECT_THAT(third.Get(), IsOk());
}

TEST_F(BatcherTest, WhatWouldComeTooLateIsRefusedWhenTheSpeedIsKnown) {
  StopTime();
  options_.max_batch = 1;
  Batcher batcher(options_, ReadNumber);
  const Model slow = ModelOf([&](absl::Span<const uint8_t* const> inputs, int) {
    Advance(absl::Milliseconds(500));
    return Echo(inputs);
  });
  Call warm_up(batcher, {slow, std::vector<absl::string_view>(9, "0")});
  ASSERT_THAT(warm_up.Get(), IsOk());
  Gate gate;
  Call blocking(batcher, {GatedModel(gate), {"0"}});
  gate.AwaitEntered();
  Call late(batcher, {slow, {"1"}, After(absl::Milliseconds(1850))});
  EXPECT_THAT(late.Get(), StatusIs(absl::StatusCode::kResourceExhausted));
  EXPECT_TRUE(late.Get().status().GetPayload(kRetryInfo));
  Call in_time(batcher, {slow, {"1"}, After(absl::Milliseconds(1900))});
  gate.Open();
  EXPECT_THAT(in_time.Get(), IsOk());
  Call alone(batcher, {EchoModel(), {"1"}, After(absl::Milliseconds(1))});
  EXPECT_THAT(alone.Get(), IsOk());
}

TEST_F(BatcherTest, DeadWorkIsNotDecoded) {
  StopTime();
  Gate decode;
  Batcher batcher(options_,
                  [&](absl::string_view image, absl::Span<uint8_t> input) {
                    decode.Pass();
                    return ReadNumber(image, input);
                  });
  const Model model = EchoModel();
  std::atomic<bool> gone = false;
  Call first(batcher, {model, {"0"}});
  decode.AwaitEntered();
  Call expired(batcher, {model, {"1"}, After(absl::Seconds(1))});
  Call abandoned(batcher, {model, {"2"}, absl::InfiniteFuture(), [&] {
                             return gone.load();
                           }});
  gone = true;
  Advance(absl::Seconds(2));
  decode.Open();
  EXPECT_THAT(expired.Get(), StatusIs(absl::StatusCode::kDeadlineExceeded));
  EXPECT_THAT(abandoned.Get(), StatusIs(absl::StatusCode::kCancelled));
  EXPECT_THAT(first.Get(), IsOk());
  EXPECT_EQ(decode.entered(), 1);
  Call too_late(batcher, {model, {"3"}, After(-absl::Seconds(1))});
  EXPECT_THAT(too_late.Get(), StatusIs(absl::StatusCode::kDeadlineExceeded));
  EXPECT_EQ(batcher.stats().expired, 2u);
  EXPECT_EQ(batcher.stats().cancelled, 1u);
}

TEST_F(BatcherTest, WorkThatDiedAfterItWasDecodedIsNotComputed) {
  StopTime();
  Gate decoded, gate;
  decoded.Open();
  Batcher batcher(options_,
                  [&](absl::string_view image, absl::Span<uint8_t> input) {
                    decoded.Pass();
                    return ReadNumber(image, input);
                  });
  const Model model = GatedModel(gate);
  std::atomic<bool> gone = false;
  Call first(batcher, {model, {"0"}});
  gate.AwaitEntered();
  Call expired(batcher, {model, {"1"}, After(absl::Seconds(1))});
  Call abandoned(batcher, {model, {"2"}, absl::InfiniteFuture(), [&] {
                             return gone.load();
                           }});
  decoded.AwaitEntered(3);
  gone = true;
  Advance(absl::Seconds(2));
  gate.Open();
  EXPECT_THAT(expired.Get(), StatusIs(absl::StatusCode::kDeadlineExceeded));
  EXPECT_THAT(abandoned.Get(), StatusIs(absl::StatusCode::kCancelled));
  batcher.Shutdown();
  EXPECT_THAT(sizes(), ElementsAre(1));
  EXPECT_EQ(batcher.stats().expired, 1u);
  EXPECT_EQ(batcher.stats().cancelled, 1u);
}

TEST_F(BatcherTest, ThrowingModelFailsItsImagesAndNothingElse) {
  Batcher batcher(options_, ReadNumber);
  const Model throws = ModelOf(
      [](absl::Span<const uint8_t* const>, int) -> std::vector<Probabilities> {
        throw std::runtime_error("CUDA error");
      });
  const Model forgets = ModelOf([](absl::Span<const uint8_t* const>, int) {
    return std::vector<Probabilities>();
  });
  for (const Model& bad : {throws, forgets}) {
    Call failed(batcher, {bad, {"1"}});
    ASSERT_THAT(failed.Get(), IsOk());
    EXPECT_THAT(failed.Get()->images[0], StatusIs(absl::StatusCode::kInternal));
  }
  Call after(batcher, {EchoModel(), {"1"}});
  EXPECT_THAT(after.Get()->images[0], IsOk());
}

TEST_F(BatcherTest, ShutdownFinishesWhatWaitsAndRefusesWhatComes) {
  Batcher batcher(options_, ReadNumber);
  Gate gate;
  const Model model = GatedModel(gate);
  Call first(batcher, {model, {"0"}});
  gate.AwaitEntered();
  Call second(batcher, {model, {"1", "2"}});
  gate.Open();
  batcher.Shutdown();
  EXPECT_THAT(first.Get(), IsOk());
  EXPECT_THAT(second.Get(), IsOk());
  Call late(batcher, {model, {"2"}});
  EXPECT_THAT(late.Get(), StatusIs(absl::StatusCode::kUnavailable));
}

TEST_F(BatcherTest, ShutdownGivesUpWhatStillWaitsInTheEnd) {
  Gate gate;
  Batcher batcher(options_,
                  [&](absl::string_view image, absl::Span<uint8_t> input) {
                    gate.Pass();
                    return ReadNumber(image, input);
                  });
  const Model model = EchoModel();
  Call first(batcher, {model, {"0"}});
  gate.AwaitEntered();
  absl::Status given_up;
  batcher.Submit({model, {"1"}}, [&](const auto& outcome) {
    given_up = outcome.status();
    gate.Open();
  });
  batcher.Shutdown(absl::InfinitePast());
  EXPECT_THAT(given_up, StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_TRUE(given_up.GetPayload(kRetryInfo));
  EXPECT_THAT(first.Get(), IsOk());
}

TEST_F(BatcherTest, ModelIsFreedWithItsLastBatch) {
  Batcher batcher(options_, ReadNumber);
  Model model = EchoModel();
  const std::weak_ptr<const Servable> weak = model;
  Call call(batcher, {std::move(model), {"1"}});
  ASSERT_THAT(call.Get(), IsOk());
  batcher.Shutdown();
  EXPECT_TRUE(weak.expired());
}

// Many callers, models and ends: each call has one answer, and the right one.
TEST_F(BatcherTest, EveryCallIsAnsweredOnceUnderLoad) {
  constexpr int kCallers = 4, kCalls = 300;
  options_.max_batch = 4;
  options_.max_waiting = 16;
  options_.max_delay = absl::Microseconds(50);
  options_.workers = 2;
  options_.preprocess_threads = 2;
  Batcher batcher(options_, ReadNumber);
  const std::vector<Model> models = {EchoModel(), EchoModel(), EchoModel()};
  std::atomic<int> answered = 0, right = 0;

  const auto call_many = [&](int seed) {
    std::mt19937 random(seed);
    for (int i = 0; i < kCalls; ++i) {
      const auto text =
          std::make_shared<std::string>(absl::StrCat(seed * kCalls + i));
      ClassifyWork work{
          .servable = models[random() % models.size()],
          .images = std::vector<absl::string_view>(1 + random() % 4, *text)};
      if (random() % 8 == 0) work.deadline = absl::Now();
      if (random() % 8 == 0) work.cancelled = [] { return true; };
      batcher.Submit(std::move(work), [&, text](const auto& outcome) {
        ++answered;
        if (outcome.ok()) {
          right += absl::StrCat((*outcome->images.back())[0]) == *text ? 1 : 0;
        } else {
          ++right;
        }
      });
    }
  };
  {
    std::vector<std::jthread> callers;
    for (int i = 0; i < kCallers; ++i) {
      callers.emplace_back([&, i] { call_many(i); });
    }
  }
  batcher.Shutdown();
  EXPECT_EQ(answered, kCallers * kCalls);
  EXPECT_EQ(right, kCallers * kCalls);
  EXPECT_EQ(batcher.stats().waiting, 0u);
  EXPECT_EQ(batcher.stats().computing, 0u);
}

}  // namespace
}  // namespace finetune
