// The forms in which people keep weights, and those that are refused by name.

#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "caffe2/serialize/inline_container.h"
#include "common/testing/status_matchers.h"
#include "common/testing/temp_dir.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/model/safetensors.h"
#include "server/model/testing/pickle_writer.h"
#include "server/model/weights.h"

namespace finetune {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::IsOk;
using testing::PickledBytes;
using testing::PickleWriter;
using testing::StatusIs;
using testing::TempDir;

using Records = std::vector<std::pair<std::string, std::string>>;

const PickleWriter kPickle;
const PickleWriter kPickle5{.protocol = 5};

std::string Floats(std::initializer_list<float> values) {
  return std::string(reinterpret_cast<const char*>(values.begin()),
                     values.size() * sizeof(float));
}

std::string Zip(const Records& records, bool deflate = false) {
  std::string bytes;
  caffe2::serialize::PyTorchStreamWriter writer(
      [&bytes](const void* data, size_t size) {
        bytes.append(static_cast<const char*>(data), size);
        return size;
      });
  for (const auto& [name, content] : records) {
    writer.writeRecord(name, content.data(), content.size(), deflate);
  }
  writer.writeEndOfFile();
  return bytes;
}

// torch's older format; all storages hold float32.
std::string Legacy(const PickleWriter& pickle, bool little_endian,
                   const std::string& value, const Records& storages) {
  PickleWriter::Parts keys;
  std::string data;
  for (const auto& [key, content] : storages) {
    keys.push_back(pickle.Text(key));
    data += PickledBytes(content.size() / sizeof(float), 8) + content;
  }
  const std::string magic("\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19",
                          12);
  return pickle.Whole(magic) + pickle.Whole(pickle.Number(1001)) +
         pickle.Whole(pickle.Dict(
             {{"protocol_version", pickle.Number(1001)},
              {"little_endian", little_endian ? "\x88" : "\x89"}})) +
         pickle.Whole(value) + pickle.Whole(pickle.List(keys)) + data;
}

absl::StatusOr<StateDict> Read(const std::string& bytes) {
  const TempDir dir;
  return ReadStateDict(dir.Write("weights.pth", bytes));
}

std::string MessageOf(const std::string& bytes) {
  const auto state = Read(bytes);
  EXPECT_THAT(state, StatusIs(absl::StatusCode::kInvalidArgument));
  return std::string(state.status().message());
}

std::vector<std::string> Names(const absl::StatusOr<StateDict>& state) {
  EXPECT_THAT(state, IsOk());
  std::vector<std::string> names;
  if (!state.ok()) return names;
  for (const auto& [name, tensor] : *state) names.push_back(name);
  return names;
}

const std::string kVector = kPickle.Vector("0", "FloatStorage", 2);

TEST(WeightFormsTest, StateDictInADictionaryIsFoundAndAllBesideItIgnored) {
  for (const char* name : {"state_dict", "model_state_dict", "model"}) {
    const std::string pickle = kPickle.Whole(kPickle.Dict(
        {{"epoch", kPickle.Number(3)},
         {"args", kPickle.Object(kPickle.Global("argparse", "Namespace"))},
         {"best", kPickle.Call(kPickle.Global("numpy", "scalar"), {"N"})},
         {"rng", kPickle.Vector("1", "ByteStorage", 7)},
         {"eight", "\x8f(K\x01\x90"},  // A set.
         {name, kPickle.Dict({{"w", kVector}})}}));
    const auto state =
        Read(Zip({{"data.pkl", pickle}, {"data/0", Floats({1, 2})}}));
    EXPECT_THAT(Names(state), ElementsAre("w")) << name;
  }
}

TEST(WeightFormsTest, PrefixesThatAllNamesShareAreRemoved) {
  const auto names = [](const std::string& a, const std::string& b) {
    return Names(Read(SerializeSafetensors(
        {{a, torch::zeros({1})}, {b, torch::zeros({1})}})));
  };
  EXPECT_THAT(names("module.a", "module.b"), ElementsAre("a", "b"));
  EXPECT_THAT(names("_orig_mod.module.a", "_orig_mod.module.b"),
              ElementsAre("a", "b"));
  EXPECT_THAT(names("model.resnet.a", "model.resnet.b"), ElementsAre("a", "b"));
  EXPECT_THAT(names("backbone.a", "backbone.b"), ElementsAre("a", "b"));
  EXPECT_THAT(names("backbone.a", "fc.b"), ElementsAre("backbone.a", "fc.b"));
}

TEST(WeightFormsTest, WholeModelIsRefusedByNameWithTheCure) {
  const auto refused =
      AllOf(HasSubstr("a whole pickled model"), HasSubstr("ResNet"),
            HasSubstr("torch.save(model.state_dict(), path)"));
  const std::string type =
      kPickle.Global("torchvision.models.resnet", "ResNet");
  EXPECT_THAT(
      MessageOf(Zip({{"data.pkl", kPickle.Whole(kPickle.Object(type))}})),
      refused);
  EXPECT_THAT(
      MessageOf(Zip({{"data.pkl", kPickle.Whole(kPickle.Dict(
                                      {{"model", kPickle.Object(type)}}))}})),
      refused);
  const std::string with_source =
      kPickle.Tuple({kPickle.Text("module"), type, kPickle.Text("resnet.py"),
                     kPickle.Text("class ResNet")}) +
      "Q";
  EXPECT_THAT(MessageOf(Legacy(kPickle, true, kPickle.Object(with_source), {})),
              refused);
}

TEST(WeightFormsTest, TorchScriptArchiveIsRefusedByNameWithTheCure) {
  EXPECT_THAT(MessageOf(Zip({{"data.pkl", kPickle.Whole("N")},
                             {"constants.pkl", kPickle.Whole("N")}})),
              AllOf(HasSubstr("a TorchScript archive"),
                    HasSubstr("torch.save(model.state_dict(), path)")));
}

TEST(WeightFormsTest, BigEndianFilesAreRefusedByName) {
  const std::string value = kPickle.Dict({{"w", kVector}});
  const std::string floats = Floats({1, 2});
  EXPECT_THAT(MessageOf(Zip({{"data.pkl", kPickle.Whole(value)},
                             {"byteorder", "big"},
                             {"data/0", floats}})),
              HasSubstr("big-endian"));
  EXPECT_THAT(Read(Legacy(kPickle, true, value, {{"0", floats}})), IsOk());
  EXPECT_THAT(MessageOf(Legacy(kPickle, false, value, {{"0", floats}})),
              HasSubstr("big-endian"));
}

TEST(WeightFormsTest, Protocol5IsReadInBothFormats) {
  const std::string value = kPickle5.Dict(
      {{"state_dict",
        kPickle5.Dict({{"w", kPickle5.Vector("0", "FloatStorage", 2)}})},
       {"bytes", "C\x02xy"}});
  const std::string floats = Floats({1, 2});
  for (const std::string& file :
       {Zip({{"data.pkl", kPickle5.Whole(value)}, {"data/0", floats}}),
        Legacy(kPickle5, true, value, {{"0", floats}})}) {
    const auto state = Read(file);
    ASSERT_THAT(Names(state), ElementsAre("w"));
    EXPECT_EQ(state->at("w")[1].item<float>(), 2);
  }
}

TEST(WeightFormsTest, LegacyStoragesBesideTheStateDictAreSkipped) {
  const std::string value =
      kPickle.Dict({{"momentum", kPickle.Vector("1", "IntStorage", 1)},
                    {"state_dict", kPickle.Dict({{"w", kVector}})}});
  const auto state = Read(Legacy(kPickle, true, value,
                                 {{"1", Floats({7})}, {"0", Floats({1, 2})}}));
  ASSERT_THAT(Names(state), ElementsAre("w"));
  EXPECT_EQ(state->at("w")[0].item<float>(), 1);
}

std::string Expanded(uint32_t rows) {
  const std::string value = kPickle.Dict(
      {{"w", kPickle.Tensor("0", "FloatStorage", 2, kPickle.Numbers({rows, 2}),
                            kPickle.Numbers({0, 1}))}});
  return Zip({{"data.pkl", kPickle.Whole(value)}, {"data/0", Floats({1, 2})}});
}

TEST(WeightFormsTest, ExpandedTensorsAreReadUpToALimit) {
  const auto state = Read(Expanded(3));
  ASSERT_THAT(state, IsOk());
  EXPECT_TRUE(torch::equal(
      state->at("w"), torch::tensor({{1.f, 2.f}, {1.f, 2.f}, {1.f, 2.f}})));
  EXPECT_THAT(MessageOf(Expanded(1 << 30)),
              HasSubstr("w is larger than its storage"));
}

TEST(WeightFormsTest, ShapesWhoseProductOverflowsAreRefused) {
  constexpr uint32_t kBig = 0x7fffffff;
  const std::string value =
      kPickle.Dict({{"w", kPickle.Tensor("0", "FloatStorage", 2,
                                         kPickle.Numbers({0, kBig, kBig, kBig}),
                                         kPickle.Numbers({1, 1, 1, 1}))}});
  const std::string floats = Floats({1, 2});
  MessageOf(Legacy(kPickle, true, value, {{"0", floats}}));
  MessageOf(Zip({{"data.pkl", kPickle.Whole(value)}, {"data/0", floats}}));
}

TEST(WeightFormsTest, OtherTypesAreReadOrTheTensorIsNamed) {
  const auto mask = Read(Zip(
      {{"data.pkl", kPickle.Whole(kPickle.Dict(
                        {{"mask", kPickle.Vector("0", "BoolStorage", 2)}}))},
       {"data/0", std::string("\1\0", 2)}}));
  ASSERT_THAT(mask, IsOk());
  EXPECT_EQ(mask->at("mask").scalar_type(), torch::kBool);
  const std::string storage = kPickle.Tuple(
      {kPickle.Text("storage"),
       kPickle.Global("torch.storage", "UntypedStorage"), kPickle.Text("0"),
       kPickle.Text("cpu"), kPickle.Number(2)});
  const std::string scale = kPickle.Call(
      kPickle.Global("torch._utils", "_rebuild_tensor_v3"), {storage + "Q"});
  EXPECT_THAT(
      MessageOf(
          Zip({{"data.pkl", kPickle.Whole(kPickle.Dict({{"scale", scale}}))}})),
      AllOf(HasSubstr("for \"scale\""), HasSubstr("_rebuild_tensor_v3")));
}

TEST(WeightFormsTest, DeflatedArchivesAreReadHoweverSmallTheyAre) {
  constexpr uint32_t kElements = 1 << 18;
  const std::string pickle = kPickle.Whole(
      kPickle.Dict({{"w", kPickle.Vector("0", "FloatStorage", kElements)}}));
  const std::string file =
      Zip({{"data.pkl", pickle}, {"data/0", std::string(4 * kElements, '\0')}},
          /*deflate=*/true);
  ASSERT_LT(file.size(), kElements);
  const auto state = Read(file);
  ASSERT_THAT(state, IsOk());
  EXPECT_EQ(state->at("w").numel(), kElements);
}

}  // namespace
}  // namespace finetune
