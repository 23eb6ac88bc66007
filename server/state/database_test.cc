#include "server/state/database.h"

#include <string>
#include <vector>

#include "common/testing/status_matchers.h"
#include "common/testing/temp_dir.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/state/schema.h"
#include "sqlite3.h"

namespace finetune {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::IsOk;
using testing::StatusIs;
using testing::TempDir;

constexpr char kInsert[] =
    "INSERT INTO models (name, version, record) VALUES (?, ?, ?)";

class DatabaseTest : public ::testing::Test {
 protected:
  std::unique_ptr<Database> Open() {
    auto database = Database::Open(path_);
    EXPECT_THAT(database, IsOk());
    return *std::move(database);
  }
  static std::vector<std::string> Names(Database& database) {
    std::vector<std::string> names;
    EXPECT_THAT(
        database.Query("SELECT name FROM models ORDER BY name", {},
                       [&](const Row& row) { names.push_back(row.Bytes(0)); }),
        IsOk());
    return names;
  }

  const TempDir dir_;
  const std::filesystem::path path_ = dir_.path() / "state.db";
};

TEST_F(DatabaseTest, CommittedRowsAreThereAfterReopening) {
  const std::string record("\0\xff blob", 7);
  {
    const auto database = Open();
    EXPECT_THAT(database->Commit([&](Transaction& transaction) {
      return transaction.Run(kInsert, {"cats", int64_t{1} << 40, Blob{record}});
    }),
                IsOk());
  }
  const auto database = Open();
  EXPECT_THAT(database->Query("SELECT * FROM models WHERE name = ?", {"cats"},
                              [&](const Row& row) {
                                EXPECT_EQ(row.Integer(1), int64_t{1} << 40);
                                EXPECT_EQ(row.Bytes(2), record);
                              }),
              IsOk());
  EXPECT_THAT(Names(*database), ElementsAre("cats"));
}

TEST_F(DatabaseTest, FailedTransactionLeavesNothing) {
  const auto database = Open();
  EXPECT_THAT(database->Commit([&](Transaction& transaction) {
    EXPECT_THAT(transaction.Run(kInsert, {"cats", int64_t{1}, Blob{}}), IsOk());
    return absl::AbortedError("no");
  }),
              StatusIs(absl::StatusCode::kAborted));
  EXPECT_TRUE(Names(*database).empty());
}

TEST_F(DatabaseTest, KeyThatIsTakenAlreadyExists) {
  const auto database = Open();
  const auto insert = [](Transaction& transaction) {
    return transaction.Run(kInsert, {"cats", int64_t{1}, Blob{}});
  };
  EXPECT_THAT(database->Commit(insert), IsOk());
  EXPECT_THAT(database->Commit(insert),
              StatusIs(absl::StatusCode::kAlreadyExists));
}

TEST_F(DatabaseTest, FileThatIsNoDatabaseIsDataLossAndIsNamed) {
  dir_.Write("state.db", std::string(5000, 'x'));
  const auto database = Database::Open(path_);
  EXPECT_THAT(database, StatusIs(absl::StatusCode::kDataLoss));
  EXPECT_THAT(std::string(database.status().message()), HasSubstr("state.db"));
}

TEST_F(DatabaseTest, SchemaOfANewerProgramIsRefused) {
  Open();
  sqlite3* connection = nullptr;
  ASSERT_EQ(sqlite3_open(path_.c_str(), &connection), SQLITE_OK);
  ASSERT_EQ(sqlite3_exec(connection, "PRAGMA user_version = 99", nullptr,
                         nullptr, nullptr),
            SQLITE_OK);
  sqlite3_close(connection);
  EXPECT_THAT(Database::Open(path_),
              StatusIs(absl::StatusCode::kFailedPrecondition));
}

TEST_F(DatabaseTest, SettingsAreThoseOfADurableLog) {
  const auto database = Open();
  EXPECT_THAT(
      database->Query("PRAGMA synchronous", {},
                      [](const Row& row) { EXPECT_EQ(row.Integer(0), 2); }),
      IsOk());
  EXPECT_THAT(
      database->Query("PRAGMA journal_mode", {},
                      [](const Row& row) { EXPECT_EQ(row.Bytes(0), "wal"); }),
      IsOk());
}

}  // namespace
}  // namespace finetune
