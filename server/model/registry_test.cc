#include "server/model/registry.h"

#include <filesystem>

#include "common/testing/status_matchers.h"
#include "common/testing/temp_dir.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace finetune {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
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
    model.mutable_create_time()->set_seconds(++clock_);
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

  static std::vector<std::string> Labels(const ModelRegistry::Page& page) {
    std::vector<std::string> labels;
    for (const v1::Model& model : page.models) {
      labels.push_back(model.labels(0));
    }
    return labels;
  }

  const TempDir dir_;
  std::unique_ptr<Database> database_;
  int64_t clock_ = 0;
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
  registry = Open();
  EXPECT_EQ(registry->Resolve(Ref("cats", 1))->labels(0), "old");
  EXPECT_EQ(Publish(*registry, "cats", "next").ref().version(), 3);
}

TEST_F(ModelRegistryTest, ALostDatabaseTakesModelsInAsTheyWerePromoted) {
  {
    auto registry = Open();
    Publish(*registry, "dogs", "dog");
    Publish(*registry, "cats", "old");
    Publish(*registry, "cats", "new");
    Publish(*registry, "birds", "held", /*promote=*/false);
    EXPECT_THAT(registry->Promote(Ref("cats", 1)), IsOk());
    EXPECT_THAT(registry->Promote(Ref("dogs", 1)), IsOk());
  }
  database_.reset();
  fs::remove(dir_.path() / "db");
  auto registry = Open();
  EXPECT_EQ(registry->Resolve(Ref("cats"))->labels(0), "old");
  EXPECT_EQ(registry->Resolve(Ref(""))->labels(0), "dog");
  EXPECT_THAT(registry->Resolve(Ref("birds")),
              StatusIs(absl::StatusCode::kNotFound));
  EXPECT_EQ(registry->Resolve(Ref("birds", 1))->labels(0), "held");
}

TEST_F(ModelRegistryTest, ModelThatAnOlderDatabaseDoesNotKnowIsKept) {
  Publish(*Open(), "cats", "old");
  database_.reset();
  fs::copy_file(dir_.path() / "db", dir_.path() / "yesterday");
  Publish(*Open(), "cats", "new");
  database_.reset();
  fs::rename(dir_.path() / "yesterday", dir_.path() / "db");
  auto registry = Open();
  EXPECT_EQ(registry->Resolve(Ref("cats"))->labels(0), "old");
  EXPECT_TRUE(
      fs::exists(dir_.path() / "lost+found/models-cats-2/weights.safetensors"));
}

TEST_F(ModelRegistryTest, PromotingIsSeenAtOnceAndAfterARestart) {
  {
    auto registry = Open();
    Publish(*registry, "dogs", "dog");
    Publish(*registry, "cats", "old");
    Publish(*registry, "cats", "new");
    EXPECT_TRUE(registry->Promote(Ref("cats", 1))->promoted());
    EXPECT_EQ(registry->Resolve(Ref("cats"))->labels(0), "old");
    EXPECT_FALSE(registry->Resolve(Ref("cats", 2))->promoted());
    EXPECT_THAT(registry->Promote(Ref("dogs", 1)), IsOk());  // Again.
    EXPECT_EQ(registry->Resolve(Ref(""))->labels(0), "dog");
    EXPECT_THAT(registry->Promote(Ref("cats", 7)),
                StatusIs(absl::StatusCode::kNotFound));
  }
  auto registry = Open();
  EXPECT_EQ(registry->Resolve(Ref("cats"))->labels(0), "old");
  EXPECT_EQ(registry->Resolve(Ref(""))->labels(0), "dog");
}

TEST_F(ModelRegistryTest, DeletedVersionIsGoneAndItsNumberNotReused) {
  {
    auto registry = Open();
    Publish(*registry, "cats", "keep");
    Publish(*registry, "cats", "held", /*promote=*/false);
    Publish(*registry, "dogs", "held", /*promote=*/false);
    EXPECT_THAT(registry->Delete(Ref("cats", 2)), IsOk());
    EXPECT_THAT(registry->Delete(Ref("dogs", 1)), IsOk());
    EXPECT_THAT(registry->Delete(Ref("cats", 2)),
                StatusIs(absl::StatusCode::kNotFound));
    EXPECT_THAT(registry->Resolve(Ref("cats", 2)),
                StatusIs(absl::StatusCode::kNotFound));
    EXPECT_FALSE(fs::exists(dir_.path() / "models/cats/2"));
    EXPECT_FALSE(fs::exists(dir_.path() / "models/dogs"));
  }
  auto registry = Open();
  EXPECT_EQ(registry->Resolve(Ref("cats"))->labels(0), "keep");
  EXPECT_EQ(Publish(*registry, "cats", "next").ref().version(), 3);
  EXPECT_EQ(Publish(*registry, "dogs", "next").ref().version(), 2);
}

TEST_F(ModelRegistryTest, PromotedVersionIsNotDeleted) {
  auto registry = Open();
  Publish(*registry, "cats", "old");
  Publish(*registry, "cats", "new");
  const absl::Status refused = registry->Delete(Ref("cats", 2));
  EXPECT_THAT(refused, StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(std::string(refused.message()), HasSubstr("promote another"));
  ASSERT_THAT(registry->Promote(Ref("cats", 1)), IsOk());
  EXPECT_THAT(registry->Delete(Ref("cats", 2)), IsOk());
}

TEST_F(ModelRegistryTest, DeletionThatACrashBrokeOffIsFinishedAtTheStart) {
  {
    auto registry = Open();
    Publish(*registry, "cats", "keep");
    Publish(*registry, "cats", "gone", /*promote=*/false);
    fs::copy(dir_.path() / "models/cats/2", dir_.path() / "copy");
    ASSERT_THAT(registry->Delete(Ref("cats", 2)), IsOk());
  }
  // As if it had died before it came to the files.
  fs::copy(dir_.path() / "copy", dir_.path() / "models/cats/2");
  auto registry = Open();
  EXPECT_FALSE(fs::exists(dir_.path() / "models/cats/2"));
  EXPECT_THAT(registry->Resolve(Ref("cats", 2)),
              StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(ModelRegistryTest, RecordsAndFilesDoNotSayWhatIsPromoted) {
  auto registry = Open();
  Publish(*registry, "cats", "x");
  v1::Model model = *registry->Resolve(Ref("cats"));
  ASSERT_TRUE(model.promoted());
  EXPECT_FALSE(ReadModelFile(registry->DirOf(model.ref()))->promoted());
  std::string record;
  ASSERT_THAT(database_->Query("SELECT record FROM models", {},
                               [&](const Row& row) { record = row.Bytes(0); }),
              IsOk());
  ASSERT_TRUE(model.ParseFromString(record));
  EXPECT_FALSE(model.promoted());
}

TEST_F(ModelRegistryTest, ListIsNewestFirstInPagesThatStayWhereTheyWere) {
  auto registry = Open();
  Publish(*registry, "cats", "a");
  Publish(*registry, "dogs", "b");
  Publish(*registry, "cats", "c");
  Publish(*registry, "cats", "d", /*promote=*/false);
  const auto first = registry->List("", 2, "");
  ASSERT_THAT(first, IsOk());
  EXPECT_THAT(Labels(*first), ElementsAre("d", "c"));
  EXPECT_FALSE(first->models[0].promoted());
  EXPECT_TRUE(first->models[1].promoted());

  ASSERT_THAT(registry->Promote(Ref("cats", 1)), IsOk());
  ASSERT_THAT(registry->Delete(Ref("cats", 2)), IsOk());  // The page's last.
  Publish(*registry, "cats", "e");
  const auto second = registry->List("", 2, first->next_page_token);
  ASSERT_THAT(second, IsOk());
  EXPECT_THAT(Labels(*second), ElementsAre("b", "a"));
  EXPECT_EQ(second->next_page_token, "");

  EXPECT_THAT(Labels(*registry->List("dogs", 2, "")), ElementsAre("b"));
  EXPECT_THAT(Labels(*registry->List("birds", 2, "")), ElementsAre());
  for (const char* token : {"x", "1/cats/x", "1/cats"}) {
    EXPECT_THAT(registry->List("", 2, token),
                StatusIs(absl::StatusCode::kInvalidArgument));
  }
}

TEST_F(ModelRegistryTest, PageEndsBeforeAMessageGetsTooLarge) {
  auto registry = Open();
  Publish(*registry, "cats", std::string(700 << 10, 'a'));
  Publish(*registry, "cats", std::string(700 << 10, 'b'));
  const auto page = registry->List("", 20, "");
  EXPECT_EQ(page->models.size(), 1);
  EXPECT_EQ(registry->List("", 20, page->next_page_token)->models.size(), 1);
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
