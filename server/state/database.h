// The state folder's database: what must survive a crash, in one SQLite file,
// so that a change of several rooms' records is one transaction.
//
// Write-ahead log, synchronous FULL: a transaction that returned OK is on disk,
// one that did not left nothing behind, whatever dies in between.

#ifndef SERVER_STATE_DATABASE_H_
#define SERVER_STATE_DATABASE_H_

#include <cstdint>
#include <filesystem>
#include <functional>
#include <initializer_list>
#include <memory>
#include <string>
#include <variant>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/mutex.h"

struct sqlite3;
struct sqlite3_stmt;

namespace finetune {

// One row of a result; valid only while it is being handed over.
class Row {
 public:
  explicit Row(sqlite3_stmt* statement) : statement_(statement) {}

  // Columns count from 0. NULL is 0 and "".
  int64_t Integer(int column) const;
  std::string Bytes(int column) const;

 private:
  sqlite3_stmt* const statement_;
};

// A serialized message, say; a plain string_view is text.
struct Blob {
  absl::string_view bytes;
};

// NULL, integer, text or blob.
using SqlValue = std::variant<std::monostate, int64_t, absl::string_view, Blob>;

// A transaction's way to the database. Errors: RESOURCE_EXHAUSTED if the disk
// is full, ALREADY_EXISTS for a key that is taken, DATA_LOSS for a damaged
// file, INTERNAL for the rest.
class Transaction {
 public:
  explicit Transaction(sqlite3* connection) : connection_(connection) {}

  // Runs one statement with `values` for its question marks. Calls `on_row`
  // for each row of the result.
  absl::Status Run(absl::string_view sql,
                   std::initializer_list<SqlValue> values = {},
                   const std::function<void(const Row&)>& on_row = nullptr);

 private:
  sqlite3* const connection_;
};

// Thread-safe: one transaction at a time.
class Database {
 public:
  // Opens or creates `path` and brings its schema up to date.
  //
  // FAILED_PRECONDITION if a newer finetuned made it; DATA_LOSS if it is no
  // database; else as Transaction.
  static absl::StatusOr<std::unique_ptr<Database>> Open(
      const std::filesystem::path& path);

  ~Database();

  // Runs `work` as one transaction: all of it is on disk when this returns OK,
  // nothing of it otherwise. `work` must not call the database but through its
  // argument.
  absl::Status Commit(const std::function<absl::Status(Transaction&)>& work)
      ABSL_LOCKS_EXCLUDED(mu_);

  // One statement that only reads.
  absl::Status Query(absl::string_view sql,
                     std::initializer_list<SqlValue> values,
                     const std::function<void(const Row&)>& on_row)
      ABSL_LOCKS_EXCLUDED(mu_);

 private:
  explicit Database(sqlite3* connection) : connection_(connection) {}

  absl::Status Migrate();

  Mutex mu_;
  sqlite3* const connection_;
};

}  // namespace finetune

#endif  // SERVER_STATE_DATABASE_H_
