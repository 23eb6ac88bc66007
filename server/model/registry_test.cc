#include "server/model/registry.h"

#include <filesystem>

#include "common/testing/status_matchers.h"
#include "common/testing/temp_dir.h"
#include "gtest/gtest.h"

namespace finetune {
namespace {

namespace fs = std::filesystem;
using testing::IsOk;
using testing::StatusIs;
using testing::TempDir;

v1::ModelRef Ref(const std::string& name, int64_t version = 0) {
  v1::ModelRef ref;
  ref.set_name(name);
  ref.set_version(version);
  return ref;
}

class ModelRegistryTest : public ::testing::Test {
 protected:
  // A new server on the same folder.
  std::unique_ptr<ModelRegistry> Open() {
    database_.reset();
    database_ = *Database::Open(dir_.path() / "db");
    auto registry = ModelRegistry::Open(dir_.path() / "models", *database_);
    EXPECT_THAT(registry, IsOk());
    return *std::move(registry);
  }

  fs::path Write(const std::string& label) {
    const fs::path staging = dir_.path() / "staging";
    dir_.Write("staging/weights.safetensors", label);
    v1::Model model;
    model.add_labels(label);
    EXPECT_THAT(WriteModelFile(staging, model), IsOk());
    return staging;
  }

  v1::Model Publish(ModelRegistry& registry, const std::string& name,
                    const std::string& label, bool promote = true) {
    auto model = registry.Stage(name, Write(label));
    EXPECT_THAT(model, IsOk());
    EXPECT_THAT(database_->Commit([&](Transaction& transaction) {
      return registry.Insert(*model, promote, transaction);
    }),
                IsOk());
    registry.Adopt(*model, promote);
    return *std::move(model);
  }

  const TempDir dir_;
  std::unique_ptr<Database> database_;
};

TEST_F(ModelRegistryTest, VersionsCountUpUnderEachName) {
  auto registry = Open();
  EXPECT_EQ(Publish(*registry, "cats", "x").ref().version(), 1);
  EXPECT_EQ(Publish(*registry, "cats", "y").ref().version(), 2);
  EXPECT_EQ(Publish(*registry, "dogs", "z").ref().version(), 1);
  EXPECT_FALSE(fs::exists(dir_.path() / "staging"));
}

TEST_F(ModelRegistryTest, ResolvesNamesVersionsAndTheDefault) {
  auto registry = Open();
  Publish(*registry, "cats", "old");
  Publish(*registry, "cats", "new");
  Publish(*registry, "dogs", "dog");

  EXPECT_EQ(registry->Resolve(Ref("cats"))->labels(0), "new");
  EXPECT_EQ(registry->Resolve(Ref("cats", 1))->labels(0), "old");
  EXPECT_EQ(registry->Resolve(Ref(""))->labels(0), "dog");
  EXPECT_THAT(registry->Resolve(Ref("cats", 3)),
              StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(registry->Resolve(Ref("birds")),
              StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(ModelRegistryTest, EverythingIsThereAfterARestart) {
  {
    auto registry = Open();
    Publish(*registry, "dogs", "dog");
    Publish(*registry, "cats", "old");
    Publish(*registry, "cats", "new");
    Publish(*registry, "cats", "held", /*promote=*/false);
  }
  auto registry = Open();
  EXPECT_EQ(registry->Resolve(Ref(""))->labels(0), "new");
  EXPECT_EQ(registry->Resolve(Ref("cats"))->ref().version(), 2);
  EXPECT_EQ(registry->Resolve(Ref("cats", 3))->labels(0), "held");
  EXPECT_EQ(registry->Resolve(Ref("dogs"))->labels(0), "dog");
}

TEST_F(ModelRegistryTest, PublishedIsNotServedBeforeItIsPromoted) {
  auto registry = Open();
  Publish(*registry, "cats", "x", /*promote=*/false);
  EXPECT_THAT(registry->Resolve(Ref("")),
              StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(registry->Resolve(Ref("cats")),
              StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(registry->Resolve(Ref("cats", 1)), IsOk());
}

TEST_F(ModelRegistryTest, StagedModelIsUnknownAndGoneAfterACrash) {
  {
    auto registry = Open();
    Publish(*registry, "cats", "good");
    ASSERT_THAT(registry->Stage("cats", Write("staged")), IsOk());
    ASSERT_THAT(registry->Stage("dogs", Write("staged")), IsOk());
    EXPECT_THAT(registry->Resolve(Ref("cats", 2)),
                StatusIs(absl::StatusCode::kNotFound));
  }
  auto registry = Open();
  EXPECT_TRUE(fs::exists(dir_.path() / "models/cats/1"));
  EXPECT_FALSE(fs::exists(dir_.path() / "models/cats/2"));
  EXPECT_FALSE(fs::exists(dir_.path() / "models/dogs"));
}

TEST_F(ModelRegistryTest, DiscardLeavesNothing) {
  auto registry = Open();
  const auto model = registry->Stage("cats", Write("x"));
  ASSERT_THAT(model, IsOk());
  registry->Discard(*model);
  EXPECT_FALSE(fs::exists(dir_.path() / "models/cats"));
}

TEST_F(ModelRegistryTest, DamagedVersionIsNotServedAndItsNumberNotReused) {
  {
    auto registry = Open();
    Publish(*registry, "cats", "good");
    Publish(*registry, "cats", "bad");
  }
  fs::remove(dir_.path() / "models/cats/2/weights.safetensors");
  auto registry = Open();
  EXPECT_EQ(registry->Resolve(Ref("cats", 1))->labels(0), "good");
  EXPECT_THAT(registry->Resolve(Ref("cats", 2)),
              StatusIs(absl::StatusCode::kNotFound));
  EXPECT_EQ(Publish(*registry, "cats", "next").ref().version(), 3);
}

TEST_F(ModelRegistryTest, ModelsAreTakenInWhereTheDatabaseIsLost) {
  {
    auto registry = Open();
    Publish(*registry, "cats", "old");
    Publish(*registry, "cats", "new");
  }
  dir_.Write("models/cats/3/model.json", "{");
  database_.reset();
  fs::remove(dir_.path() / "db");
  auto registry = Open();
  EXPECT_EQ(registry->Resolve(Ref("cats"))->labels(0), "new");
  EXPECT_EQ(registry->Resolve(Ref("cats", 1))->labels(0), "old");
  EXPECT_TRUE(fs::exists(dir_.path() / "models/cats/3.unreadable/model.json"));
  registry = Open();  // Strangers go only after all was taken in.
  EXPECT_EQ(registry->Resolve(Ref("cats", 1))->labels(0), "old");
  EXPECT_EQ(Publish(*registry, "cats", "next").ref().version(), 3);
}

TEST_F(ModelRegistryTest, StagingWithoutWeightsIsRefused) {
  auto registry = Open();
  const fs::path staging = Write("x");
  fs::remove(staging / "weights.safetensors");
  EXPECT_FALSE(registry->Stage("cats", staging).ok());
  EXPECT_FALSE(fs::exists(dir_.path() / "models/cats"));
}

}  // namespace
}  // namespace finetune
