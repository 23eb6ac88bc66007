#include "server/state/set_aside.h"

#include "common/testing/status_matchers.h"
#include "common/testing/temp_dir.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace finetune {
namespace {

using ::testing::ElementsAre;
using testing::IsOk;
using testing::NamesIn;

TEST(SetAsideTest, NothingIsLostHoweverOftenANameComes) {
  const testing::TempDir dir;
  for (int i = 0; i < 3; ++i) {
    dir.Write("models/cats/1/weights", std::string(i, 'x'));
    EXPECT_THAT(SetAside(dir.path() / "models/cats/1", dir.path(), "unknown"),
                IsOk());
  }
  EXPECT_THAT(
      NamesIn(dir.path() / "lost+found"),
      ElementsAre("models-cats-1", "models-cats-1-1", "models-cats-1-2"));
  EXPECT_EQ(std::filesystem::file_size(dir.path() /
                                       "lost+found/models-cats-1-2/weights"),
            2u);
  EXPECT_THAT(NamesIn(dir.path() / "models/cats"), ElementsAre());
}

TEST(SetAsideTest, WhatIsNotThereIsAnError) {
  const testing::TempDir dir;
  EXPECT_FALSE(SetAside(dir.path() / "none", dir.path(), "unknown").ok());
}

}  // namespace
}  // namespace finetune
