#include "server/model/pickle.h"

#include "common/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace finetune {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::StatusIs;

// A short pickle, by protocol 2: {"w": _rebuild_tensor_v2(storage, offset,
// (size,), (stride,), ...)}.
std::string OneTensor(char offset, char size, char stride, char elements) {
  using std::string;
  string p = "\x80\x02}X";
  p += string("\x01\0\0\0w", 5);
  p += "ctorch._utils\n_rebuild_tensor_v2\n";
  p += "((U\x07storagectorch\nFloatStorage\nU\x01"
       "0U\x03"
       "cpuK";
  p += elements;
  p += "tQK";
  p += offset;
  p += "K";
  p += size;
  p += "\x85K";
  p += stride;
  p += "\x85\x89)tRs.";
  return p;
}

absl::StatusOr<std::vector<PickledTensor>> Read(const std::string& pickle) {
  absl::string_view rest = pickle;
  return ConsumeStateDictPickle(rest);
}

TEST(PickleTest, ReadsATensor) {
  const auto tensors = Read(OneTensor(2, 5, 3, 15));
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  ASSERT_EQ(tensors->size(), 1u);
  const PickledTensor& tensor = (*tensors)[0];
  EXPECT_EQ(tensor.name, "w");
  EXPECT_EQ(tensor.storage_key, "0");
  EXPECT_EQ(tensor.storage_type, "FloatStorage");
  EXPECT_EQ(tensor.storage_size, 15);
  EXPECT_EQ(tensor.offset, 2);
  EXPECT_THAT(tensor.sizes, ElementsAre(5));
  EXPECT_THAT(tensor.strides, ElementsAre(3));
}

TEST(PickleTest, TensorOutsideOfItsStorageIsRefused) {
  EXPECT_TRUE(Read(OneTensor(0, 5, 1, 5)).ok());
  EXPECT_THAT(Read(OneTensor(1, 5, 1, 5)),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(Read(OneTensor(0, 5, 2, 8)),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST(PickleTest, CallOfAnythingElseIsRefusedAndNamed) {
  const auto result = Read("\x80\x02}X\x01" + std::string(3, '\0') +
                           "wcos\nsystem\n(U\x04"
                           "boomtRs.");
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(std::string(result.status().message()), HasSubstr("os system"));
}

TEST(PickleTest, EveryPrefixIsAnErrorAndNothingWorse) {
  const std::string pickle = OneTensor(0, 5, 1, 5);
  for (size_t n = 0; n < pickle.size(); ++n) {
    EXPECT_FALSE(Read(pickle.substr(0, n)).ok()) << n;
  }
}

TEST(PickleTest, EveryChangedByteIsReadOrRefused) {
  const std::string pickle = OneTensor(0, 5, 1, 5);
  for (size_t i = 0; i < pickle.size(); ++i) {
    for (int byte = 0; byte < 256; ++byte) {
      std::string changed = pickle;
      changed[i] = static_cast<char>(byte);
      Read(changed).IgnoreError();
    }
  }
}

// A list that holds itself, and a pile of values that grows by memo alone.
TEST(PickleTest, CyclesAndBombsAreRefused) {
  EXPECT_FALSE(Read("\x80\x02]q\x01h\x01"
                    "a.")
                   .ok());
  std::string bomb = "\x80\x02]q\x01";
  for (int i = 0; i < 200'000; ++i) bomb += "h\x01";
  EXPECT_THAT(Read(bomb + "."), StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST(PickleTest, WhatIsNoStateDictIsSaidToBeNone) {
  const auto list = Read("\x80\x02].");
  EXPECT_THAT(std::string(list.status().message()),
              HasSubstr("not a state_dict"));
}

}  // namespace
}  // namespace finetune
