#include "server/model/pickle.h"

#include "common/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/model/testing/pickle_writer.h"

namespace finetune {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::PickleWriter;
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
  auto state = ConsumeStateDictPickle(rest);
  if (!state.ok()) return state.status();
  return state->tensors;
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

TEST(PickleTest, EntryThatIsNoTensorIsNamed) {
  const PickleWriter p;
  const auto entry = [&](const std::string& value) {
    return std::string(
        Read(p.Whole(p.Dict({{"fc.bias", value}}))).status().message());
  };
  EXPECT_THAT(entry(p.Number(7)), HasSubstr("\"fc.bias\" is no tensor"));
  EXPECT_THAT(entry(p.Object(p.Global("a", "B"))),
              HasSubstr("\"fc.bias\" is no tensor"));
  EXPECT_THAT(entry(p.Call(p.Global("os", "system"), {p.Text("boom")})),
              HasSubstr("for \"fc.bias\" the pickle would call \"os system\""));
}

// torch.save writes these for tensors and parameters that have attributes.
TEST(PickleTest, TensorsWithAttributesAreRead) {
  const PickleWriter p;
  const std::string function = p.Global("torch._utils", "_rebuild_tensor_v2");
  const std::string storage =
      p.Tuple({p.Text("storage"), p.Global("torch", "FloatStorage"),
               p.Text("0"), p.Text("cpu"), p.Number(2)}) +
      "Q";
  const std::string tensor =
      p.Call(p.Global("torch._tensor", "_rebuild_from_type_v2"),
             {function, p.Global("torch", "Tensor"),
              p.Tuple({storage, p.Number(0), p.Numbers({2}), p.Numbers({1})}),
              p.Dict({})});
  const std::string parameter =
      p.Call(p.Global("torch._utils", "_rebuild_parameter_with_state"),
             {p.Vector("1", "FloatStorage", 3), "\x88"});
  const auto tensors = Read(p.Whole(p.Dict({{"a", tensor}, {"b", parameter}})));
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  ASSERT_EQ(tensors->size(), 2u);
  EXPECT_EQ((*tensors)[0].storage_size, 2);
  EXPECT_EQ((*tensors)[1].storage_size, 3);
}

TEST(PickleTest, OrderedDictOfPython2IsRead) {
  const PickleWriter p;
  const std::string pair =
      p.List({p.Text("w"), p.Vector("0", "FloatStorage", 3)});
  const auto tensors = Read(p.Whole(
      p.Call(p.Global("collections", "OrderedDict"), {p.List({pair})})));
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  ASSERT_EQ(tensors->size(), 1u);
  EXPECT_EQ((*tensors)[0].name, "w");
}

// {"state_dict": itself}
TEST(PickleTest, DictionaryThatHoldsItselfIsRefused) {
  const PickleWriter p;
  EXPECT_THAT(Read(p.Whole("}q\x01" + p.Text("state_dict") + "h\x01s")),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

}  // namespace
}  // namespace finetune
