#include "server/inference/batch_queue.h"

#include <string>
#include <utility>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace finetune {
namespace {

const absl::Time kStart = absl::FromUnixSeconds(1'000'000);
constexpr absl::Duration kDelay = absl::Milliseconds(2);

class BatchQueueTest : public ::testing::Test {
 protected:
  using Model = std::shared_ptr<const Servable>;

  static Model NewModel() { return std::make_shared<Servable>(); }

  std::shared_ptr<PendingClassify> Add(const Model& model, size_t images) {
    auto request = std::make_shared<PendingClassify>();
    request->work.servable = model;
    request->work.images.resize(images);
    queue_.Add(request);
    return request;
  }
  // Whose image is decoded next; it is ready at `now_`.
  const Servable* Decode() {
    BatchItem item = queue_.TakeEncoded();
    const Servable* const model = item.model();
    item.ready = now_;
    queue_.AddReady(std::move(item));
    return model;
  }
  void Decode(int images) {
    for (int i = 0; i < images; ++i) Decode();
  }
  // The size of the batch that a thread takes that is idle since the start.
  size_t Take() { return queue_.TakeBatch(now_, kStart).items.size(); }

  absl::Time now_ = kStart;
  BatchQueue queue_{{.max_batch = 4,
                     .workers = 1,
                     .max_waiting = 16,
                     .max_decoded = 8,
                     .max_delay = kDelay}};
};

TEST_F(BatchQueueTest, LoneImageIsDueAtOnce) {
  Add(NewModel(), 1);
  EXPECT_EQ(queue_.NextStart(kStart), absl::InfiniteFuture());
  Decode();
  EXPECT_EQ(queue_.NextStart(kStart), absl::InfinitePast());
  EXPECT_EQ(Take(), 1u);
  EXPECT_EQ(queue_.waiting(), 0u);
  EXPECT_EQ(queue_.computing(), 1u);
}

TEST_F(BatchQueueTest, ReadyImageWaitsForOthersNoLongerThanTheDelay) {
  Add(NewModel(), 3);
  Decode();
  EXPECT_EQ(queue_.NextStart(kStart), kStart + kDelay);
  EXPECT_EQ(Take(), 0u);
  now_ += absl::Milliseconds(1);
  Decode();
  EXPECT_EQ(queue_.NextStart(kStart), kStart + kDelay);
  now_ += absl::Milliseconds(1);
  EXPECT_EQ(Take(), 2u);
}

TEST_F(BatchQueueTest, DelayCountsFromWhenTheThreadIsIdle) {
  Add(NewModel(), 2);
  Decode();
  now_ += absl::Seconds(1);
  EXPECT_EQ(queue_.NextStart(now_), now_ + kDelay);
}

TEST_F(BatchQueueTest, FullBatchAndLastImageEndTheWait) {
  const Model model = NewModel();
  Add(model, 6);
  Decode(4);
  EXPECT_EQ(Take(), 4u);
  Decode();
  EXPECT_EQ(Take(), 0u);
  Decode();
  EXPECT_EQ(Take(), 2u);
}

TEST_F(BatchQueueTest, ImageThatCannotBeDecodedIsNotWaitedFor) {
  Add(NewModel(), 2);
  Decode();
  EXPECT_EQ(Take(), 0u);
  queue_.EndDecode(queue_.TakeEncoded());
  EXPECT_EQ(Take(), 1u);
  EXPECT_EQ(queue_.waiting(), 0u);
}

TEST(BatchQueueShareTest, WorkersShareAllThatIsHere) {
  BatchQueue queue(
      {.max_batch = 4, .workers = 2, .max_waiting = 16, .max_decoded = 8});
  const Servable model;
  auto request = std::make_shared<PendingClassify>();
  request->work.servable = {std::shared_ptr<void>(), &model};
  request->work.images.resize(5);
  queue.Add(request);
  for (int i = 0; i < 5; ++i) queue.AddReady(queue.TakeEncoded());
  EXPECT_EQ(queue.TakeBatch(kStart, kStart).items.size(), 3u);
  EXPECT_EQ(queue.TakeBatch(kStart, kStart).items.size(), 2u);
}

TEST_F(BatchQueueTest, ModelsTakeTurnsAtDecodingAndComputing) {
  const Model busy = NewModel(), other = NewModel();
  Add(busy, 12);
  Decode(6);
  Add(other, 1);
  Decode(2);
  // Neither is due later than when the other had its turn.
  std::vector<const Servable*> turns;
  for (int i = 0; i < 2; ++i) {
    turns.push_back(queue_.TakeBatch(now_, kStart).items[0].model());
  }
  EXPECT_THAT(turns, ::testing::UnorderedElementsAre(busy.get(), other.get()));
}

TEST_F(BatchQueueTest, DecodesAheadUpToALimitAndOneMoreOfAnotherModel) {
  const Model busy = NewModel(), other = NewModel();
  Add(busy, 12);
  Decode(8);
  EXPECT_FALSE(queue_.CanDecode());
  Add(other, 2);
  EXPECT_EQ(Decode(), other.get());
  EXPECT_FALSE(queue_.CanDecode());
  EXPECT_TRUE(queue_.HasEncoded());
  now_ += kDelay;
  EXPECT_EQ(Take() + Take(), 5u);  // 4 and the other's 1, in either order.
  EXPECT_TRUE(queue_.CanDecode());
}

TEST_F(BatchQueueTest, BusyModelLeavesRoomForOthers) {
  const Model busy = NewModel(), other = NewModel(), third = NewModel();
  EXPECT_TRUE(queue_.HasRoom(busy.get(), 16));
  EXPECT_FALSE(queue_.HasRoom(busy.get(), 17));
  Add(busy, 14);
  EXPECT_FALSE(queue_.HasRoom(busy.get(), 1));
  EXPECT_TRUE(queue_.HasRoom(other.get(), 2));
  EXPECT_FALSE(queue_.HasRoom(other.get(), 3));
  Add(other, 2);
  EXPECT_FALSE(queue_.HasRoom(third.get(), 1));
}

TEST_F(BatchQueueTest, WaitIsThatOfTheModelsOwnImagesInTurns) {
  const Model busy = NewModel(), other = NewModel();
  Add(busy, 10);
  EXPECT_EQ(queue_.CountUntilAnswered(busy.get(), 1), 11u);
  EXPECT_EQ(queue_.CountUntilAnswered(other.get(), 2), 4u);
  Decode(4);
  ASSERT_EQ(Take(), 4u);
  EXPECT_EQ(queue_.CountUntilAnswered(busy.get(), 1), 11u);
  EXPECT_EQ(queue_.CountUntilAnswered(other.get(), 2), 8u);
}

TEST_F(BatchQueueTest, UnwantedWorkIsRemovedAndMakesRoom) {
  const Model model = NewModel();
  const auto late = Add(model, 5);
  Add(model, 2);
  late->work.deadline = kStart + absl::Seconds(1);
  Decode(3);
  const BatchItem decoding = queue_.TakeEncoded();
  EXPECT_TRUE(queue_.RemoveUnwanted(now_).empty());
  now_ += absl::Seconds(2);
  EXPECT_EQ(queue_.RemoveUnwanted(now_).size(), 4u);
  EXPECT_EQ(queue_.waiting(), 3u);  // One is being decoded.
  queue_.EndDecode(decoding);
  EXPECT_EQ(queue_.RemoveAll().size(), 2u);
  EXPECT_EQ(queue_.waiting(), 0u);
  EXPECT_FALSE(queue_.HasEncoded());
}

TEST_F(BatchQueueTest, BatchHoldsNoUnwantedWorkInPlaceOfWanted) {
  const Model model = NewModel();
  const auto abandoned = Add(model, 3);
  Add(model, 4);
  Decode(7);
  abandoned->work.cancelled = [] { return true; };
  const BatchQueue::Batch batch = queue_.TakeBatch(now_, kStart);
  EXPECT_EQ(batch.items.size(), 4u);
  EXPECT_EQ(batch.dropped.size(), 3u);
  EXPECT_EQ(queue_.computing(), 4u);
}

}  // namespace
}  // namespace finetune
