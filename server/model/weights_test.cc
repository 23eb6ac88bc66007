#include "server/model/weights.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>

#include "absl/strings/escaping.h"
#include "common/file.h"
#include "common/testing/status_matchers.h"
#include "common/testing/temp_dir.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/model/safetensors.h"
#include "server/model/testing/golden_resnet18.h"

namespace finetune {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::IsOk;
using testing::StatusIs;
using testing::TempDir;

const fs::path kFiles = fs::path(FINETUNE_TESTDATA) / "state_dict";

std::string BytesOf(const torch::Tensor& tensor) {
  return std::string(static_cast<const char*>(tensor.const_data_ptr()),
                     tensor.nbytes());
}

// Files that Python wrote of the tensors in small.json.
class PythonFileTest : public ::testing::TestWithParam<const char*> {};

TEST_P(PythonFileTest, EveryTensorIsBitEqual) {
  const auto state = ReadStateDict(kFiles / GetParam());
  ASSERT_THAT(state, IsOk());
  const auto golden = testing::GoldenJson("state_dict/small.json");
  // nn.Parameters are floating-point only.
  const bool all = std::string(GetParam()) != "small_parameters.pth";
  size_t expected = 0;
  for (const auto& [name, entry] : golden.items()) {
    if (!all && entry["dtype"] == "int64") continue;
    ++expected;
    ASSERT_TRUE(state->contains(name)) << name;
    const torch::Tensor& tensor = state->at(name);
    EXPECT_EQ(tensor.sizes().vec(), entry["shape"].get<std::vector<int64_t>>())
        << name;
    EXPECT_EQ(absl::BytesToHexString(BytesOf(tensor)),
              entry["values"].get<std::string>())
        << name;
  }
  EXPECT_EQ(state->size(), expected);
}

INSTANTIATE_TEST_SUITE_P(All, PythonFileTest,
                         ::testing::Values("small.pth", "small_legacy.pth",
                                           "small.safetensors",
                                           "small_parameters.pth"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '.', '_');
                           return name;
                         });

TEST(ReadStateDictTest, CodeInAPickleIsRefusedAndNotRun) {
  const TempDir dir;
  fs::current_path(dir.path());
  const auto state = ReadStateDict(kFiles / "malicious.pth");
  EXPECT_THAT(state, StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(std::string(state.status().message()), HasSubstr("would call"));
  EXPECT_TRUE(fs::is_empty(dir.path()));
}

TEST(ReadStateDictTest, EveryPrefixAndDamageIsReadOrRefused) {
  const TempDir dir;
  for (const char* name :
       {"small.pth", "small_legacy.pth", "small.safetensors"}) {
    const std::string bytes = *ReadFile(kFiles / name, 1 << 20);
    const size_t step = std::max<size_t>(1, bytes.size() / 300);
    for (size_t n = 0; n < bytes.size(); n += step) {
      ReadStateDict(dir.Write("cut", bytes.substr(0, n)))
          .status()
          .IgnoreError();
      std::string damaged = bytes;
      damaged[n] = static_cast<char>(~damaged[n]);
      ReadStateDict(dir.Write("damaged", damaged)).status().IgnoreError();
    }
  }
}

TEST(ReadStateDictTest, MissingFileAndForeignFileAreNamed) {
  EXPECT_THAT(ReadStateDict("/none.pth"),
              StatusIs(absl::StatusCode::kNotFound));
  const TempDir dir;
  const auto foreign = ReadStateDict(dir.Write("notes.pth", "dear diary, ..."));
  EXPECT_THAT(foreign, StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(std::string(foreign.status().message()),
              AllOf(HasSubstr("notes.pth"), HasSubstr("neither a PyTorch")));
}

TEST(SafetensorsTest, RangesOutsideOfTheDataAreRefused) {
  const auto file = [](const std::string& header) {
    const uint64_t size = header.size();
    std::string bytes(8, '\0');
    std::memcpy(bytes.data(), &size, 8);
    return bytes + header + std::string(16, 'x');
  };
  EXPECT_THAT(
      ParseSafetensors(
          file(R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}})")),
      IsOk());
  for (const char* header :
       {R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[4,20]}})",
        R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,16]}})",
        R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[16,0]}})",
        R"({"a":{"dtype":"F32","shape":[-4],"data_offsets":[0,16]}})",
        R"({"a":{"dtype":"F32","shape":[1099511627775,1099511627775],)"
        R"("data_offsets":[0,16]}})",
        R"({"a":{"dtype":"F32","shape":[0,1099511627775,1099511627775],)"
        R"("data_offsets":[0,0]}})",
        R"({"a":{"dtype":"X9","shape":[4],"data_offsets":[0,16]}})",
        R"({"a":7})", R"([])", "{"}) {
    EXPECT_THAT(ParseSafetensors(file(header)),
                StatusIs(absl::StatusCode::kInvalidArgument))
        << header;
  }
}

TEST(SafetensorsTest, WhatIsWrittenIsReadBackBitEqual) {
  const StateDict state = StateDictOf(*testing::GoldenResNet18());
  const auto read = ParseSafetensors(SerializeSafetensors(state));
  ASSERT_THAT(read, IsOk());
  ASSERT_EQ(read->size(), 122u);
  for (const auto& [name, tensor] : state) {
    EXPECT_TRUE(torch::equal(read->at(name), tensor)) << name;
    EXPECT_EQ(read->at(name).scalar_type(), tensor.scalar_type()) << name;
  }
}

TEST(LoadStateDictTest, MissingSurplusAndMisshapenTensorsAreListed) {
  ResNet18 net(2);
  StateDict state = StateDictOf(ResNet18Impl(2));
  state.erase("layer1.0.conv1.weight");
  state["extra"] = torch::zeros({1});
  state["fc.bias"] = torch::zeros({7});
  const torch::Tensor before = net->conv1->weight.clone();
  const absl::Status status = LoadStateDict(state, *net);
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("missing: layer1.0.conv1.weight"),
                    HasSubstr("surplus: extra"),
                    HasSubstr("misshapen: fc.bias is [7] Float, not [2]")));
  EXPECT_TRUE(torch::equal(net->conv1->weight, before));
}

TEST(LoadStateDictTest, CountersOfBatchesMayBeAbsentAndHalvesAreWidened) {
  StateDict state = StateDictOf(ResNet18Impl(2));
  std::erase_if(state, [](const auto& entry) {
    return entry.first.ends_with("num_batches_tracked");
  });
  state["fc.bias"] = torch::tensor({0.5, -2.0}, torch::kFloat16);
  ResNet18 net(2);
  ASSERT_THAT(LoadStateDict(state, *net), IsOk());
  EXPECT_EQ(net->fc->bias[1].item<float>(), -2);
}

TEST(WithNewHeadTest, FeaturesAreKeptAndTheHeadIsNew) {
  const StateDict pretrained = StateDictOf(ResNet18Impl(1000));
  const auto net = WithNewHead(pretrained, 3);
  ASSERT_THAT(net, IsOk());
  EXPECT_TRUE(
      torch::equal((*net)->conv1->weight, pretrained.at("conv1.weight")));
  EXPECT_EQ((*net)->fc->weight.sizes(), torch::IntArrayRef({3, 512}));
}

TEST(RealWeightsTest, ImageNetFileLoads) {
  const char* file = std::getenv("FINETUNE_WEIGHTS");
  if (file == nullptr) GTEST_SKIP() << "FINETUNE_WEIGHTS is not set";
  const auto state = ReadStateDict(file);
  ASSERT_THAT(state, IsOk());
  EXPECT_THAT(WithNewHead(*state, 2), IsOk());
}

}  // namespace
}  // namespace finetune
