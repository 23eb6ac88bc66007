#include "common/mutex.h"

#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace finetune {
namespace {

TEST(MutexTest, AwaitReturnsWhenItsConditionHolds) {
  Mutex mu;
  int turn = 0;  // Guarded by mu.
  std::vector<int> order;
  {
    std::vector<std::jthread> threads;
    for (int own = 4; own >= 0; --own) {
      threads.emplace_back([&, own] {
        const MutexLock lock(mu);
        mu.Await([&] { return turn == own; });
        order.push_back(turn++);
      });
    }
  }
  EXPECT_EQ(order, (std::vector<int>{0, 1, 2, 3, 4}));
}

TEST(MutexTest, WaitingReleasesTheLockAndWakesOthersByWhatChanged) {
  Mutex mu;
  bool asked = false, answered = false;  // Guarded by mu.
  const std::jthread other([&] {
    const MutexLock lock(mu);
    mu.Await([&] { return asked; });
    answered = true;
  });
  const MutexLock lock(mu);
  asked = true;
  mu.Await([&] { return answered; });
  EXPECT_TRUE(answered);
}

TEST(MutexTest, AwaitForGivesUp) {
  Mutex mu;
  const MutexLock lock(mu);
  EXPECT_FALSE(mu.AwaitFor(absl::Milliseconds(1), [] { return false; }));
  EXPECT_TRUE(mu.AwaitFor(absl::ZeroDuration(), [] { return true; }));
}

TEST(MutexTest, WhoDoesNotHaveToBeWokenIsNot) {
  Mutex mu;
  int looks = 0;  // At the condition, by the waiting thread itself.
  bool done = false;
  std::thread::id waiter;
  std::jthread waiting([&] {
    const MutexLock lock(mu);
    waiter = std::this_thread::get_id();
    mu.Await([&] {
      looks += std::this_thread::get_id() == waiter ? 1 : 0;
      return done;
    });
  });
  {
    const MutexLock lock(mu);
    mu.Await([&] { return looks > 0; });
  }
  for (int i = 0; i < 100; ++i) const MutexLock lock(mu);
  {
    const MutexLock lock(mu);
    done = true;
  }
  waiting.join();
  // Before it waits, perhaps once more as it begins to, and when it is woken.
  EXPECT_LE(looks, 4);
}

}  // namespace
}  // namespace finetune
