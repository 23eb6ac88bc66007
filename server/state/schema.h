// The database's tables. Records are serialized messages of the contract; a
// column beside one is what statements search and sort by.

#ifndef SERVER_STATE_SCHEMA_H_
#define SERVER_STATE_SCHEMA_H_

#include <array>
#include <vector>

namespace finetune {

// What takes the schema from version N to N+1, by N. Released ones never
// change: a new need is a new entry.
inline const std::array<std::vector<const char*>, 2> kMigrations = {{
    {
        // `sequence` is an upper bound of those given out; `ticket` orders the
        // queue; `dataset_id` is NULL for a folder under the data root.
        "CREATE TABLE jobs ("
        "  job_id TEXT PRIMARY KEY,"
        "  state INTEGER NOT NULL,"
        "  sequence INTEGER NOT NULL,"
        "  ticket INTEGER NOT NULL,"
        "  dataset_id TEXT,"
        "  dataset_dir TEXT NOT NULL,"
        "  request_id TEXT UNIQUE,"
        "  request_sha256 TEXT,"
        "  record BLOB NOT NULL) WITHOUT ROWID",  // v1.FineTuneJob
        "CREATE INDEX jobs_by_state ON jobs (state, job_id)",
        "CREATE TABLE datasets ("
        "  id TEXT PRIMARY KEY,"
        "  ordinal INTEGER NOT NULL UNIQUE,"      // Grows with each upload.
        "  record BLOB NOT NULL) WITHOUT ROWID",  // v1.Dataset
        "CREATE TABLE models ("
        "  name TEXT NOT NULL,"
        "  version INTEGER NOT NULL,"
        "  record BLOB NOT NULL,"  // v1.Model
        "  PRIMARY KEY (name, version)) WITHOUT ROWID",
        // The version that a name stands for; the greatest ordinal is the
        // default model.
        "CREATE TABLE promotions ("
        "  name TEXT PRIMARY KEY,"
        "  version INTEGER NOT NULL,"
        "  ordinal INTEGER NOT NULL UNIQUE) WITHOUT ROWID",
        // What has been done once for all, by name.
        "CREATE TABLE milestones (name TEXT PRIMARY KEY) WITHOUT ROWID",
    },
    {
        // The highest version of each name that was deleted: no version's
        // number is used twice.
        "CREATE TABLE deleted_models ("
        "  name TEXT PRIMARY KEY,"
        "  version INTEGER NOT NULL) WITHOUT ROWID",
    },
}};

}  // namespace finetune

#endif  // SERVER_STATE_SCHEMA_H_
