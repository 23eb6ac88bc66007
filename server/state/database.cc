#include "server/state/database.h"

#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "server/state/schema.h"
#include "sqlite3.h"

namespace finetune {
namespace {

absl::Status SqlError(sqlite3* connection, absl::string_view what) {
  const std::string message =
      absl::StrCat(what, ": ", sqlite3_errmsg(connection));
  switch (sqlite3_errcode(connection)) {
    case SQLITE_FULL:
      return absl::ResourceExhaustedError(message);
    case SQLITE_CONSTRAINT:
      return absl::AlreadyExistsError(message);
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return absl::DataLossError(message);
    default:
      return absl::InternalError(message);
  }
}

struct Binder {
  sqlite3_stmt* statement;
  int index;

  void operator()(std::monostate) const { sqlite3_bind_null(statement, index); }
  void operator()(int64_t value) const {
    sqlite3_bind_int64(statement, index, value);
  }
  void operator()(absl::string_view value) const {
    sqlite3_bind_text64(statement, index, value.empty() ? "" : value.data(),
                        value.size(), SQLITE_STATIC, SQLITE_UTF8);
  }
  void operator()(Blob value) const {
    sqlite3_bind_blob64(statement, index,
                        value.bytes.empty() ? "" : value.bytes.data(),
                        value.bytes.size(), SQLITE_STATIC);
  }
};

}  // namespace

int64_t Row::Integer(int column) const {
  return sqlite3_column_int64(statement_, column);
}

std::string Row::Bytes(int column) const {
  const void* bytes = sqlite3_column_blob(statement_, column);
  const int size = sqlite3_column_bytes(statement_, column);
  return bytes == nullptr ? ""
                          : std::string(static_cast<const char*>(bytes),
                                        static_cast<size_t>(size));
}

absl::Status Transaction::Run(absl::string_view sql,
                              std::initializer_list<SqlValue> values,
                              const std::function<void(const Row&)>& on_row) {
  sqlite3_stmt* statement = nullptr;
  if (sqlite3_prepare_v2(connection_, sql.data(), static_cast<int>(sql.size()),
                         &statement, nullptr) != SQLITE_OK) {
    return SqlError(connection_, "state database");
  }
  const absl::Cleanup finalize = [&] { sqlite3_finalize(statement); };
  int index = 0;
  for (const SqlValue& value : values) {
    std::visit(Binder{statement, ++index}, value);
  }
  int result;
  while ((result = sqlite3_step(statement)) == SQLITE_ROW) {
    if (on_row) on_row(Row(statement));
  }
  if (result != SQLITE_DONE) return SqlError(connection_, "state database");
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Database>> Database::Open(
    const std::filesystem::path& path) {
  sqlite3* connection = nullptr;
  const int result =
      sqlite3_open_v2(path.c_str(), &connection,
                      SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE |
                          SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE,
                      nullptr);
  auto database = std::unique_ptr<Database>(new Database(connection));
  if (result != SQLITE_OK) return SqlError(connection, path.native());
  sqlite3_extended_result_codes(connection, 0);
  Transaction settings(connection);
  for (const char* pragma :
       {// The folder is this process's own, by its lock. Before the log, which
        // then needs no shared memory file.
        "PRAGMA locking_mode = EXCLUSIVE", "PRAGMA journal_mode = WAL",
        "PRAGMA synchronous = FULL"}) {
    const absl::Status set = settings.Run(pragma);
    if (!set.ok()) {
      return absl::Status(set.code(),
                          absl::StrCat(path.native(), ": ", set.message()));
    }
  }
  RETURN_IF_ERROR(database->Migrate());
  return database;
}

Database::~Database() { sqlite3_close_v2(connection_); }

absl::Status Database::Migrate() {
  int64_t version = 0;
  RETURN_IF_ERROR(Query("PRAGMA user_version", {},
                        [&](const Row& row) { version = row.Integer(0); }));
  const auto newest = static_cast<int64_t>(kMigrations.size());
  if (version > newest) {
    return absl::FailedPreconditionError(
        absl::StrCat("the state folder was made by a newer finetuned (schema ",
                     version, ", this one knows ", newest, ")"));
  }
  for (; version < newest; ++version) {
    RETURN_IF_ERROR(Commit([&](Transaction& transaction) -> absl::Status {
      for (const char* sql : kMigrations[static_cast<size_t>(version)]) {
        RETURN_IF_ERROR(transaction.Run(sql));
      }
      return transaction.Run(
          absl::StrCat("PRAGMA user_version = ", version + 1));
    }));
  }
  return absl::OkStatus();
}

absl::Status Database::Commit(
    const std::function<absl::Status(Transaction&)>& work) {
  const MutexLock lock(mu_);
  Transaction transaction(connection_);
  RETURN_IF_ERROR(transaction.Run("BEGIN IMMEDIATE"));
  absl::Status status = work(transaction);
  if (status.ok()) status = transaction.Run("COMMIT");
  // SQLite may have rolled back by itself, e.g. on a full disk.
  if (!status.ok() && sqlite3_get_autocommit(connection_) == 0) {
    const absl::Status undone = transaction.Run("ROLLBACK");
    if (!undone.ok()) return undone;
  }
  return status;
}

absl::Status Database::Query(absl::string_view sql,
                             std::initializer_list<SqlValue> values,
                             const std::function<void(const Row&)>& on_row) {
  const MutexLock lock(mu_);
  return Transaction(connection_).Run(sql, values, on_row);
}

}  // namespace finetune
