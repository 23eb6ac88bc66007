#include "server/datasets/dataset_store.h"

#include <stdlib.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/file.h"
#include "common/rpc_status.h"
#include "common/status_macros.h"
#include "finetune/v1/job.pb.h"
#include "server/state/set_aside.h"

namespace finetune {
namespace {

namespace fs = std::filesystem;

constexpr size_t kIdLength = 64;
constexpr char kIncoming[] = ".incoming-";
constexpr char kTrash[] = ".trash-";

absl::StatusOr<v1::Dataset> Parse(const std::string& record) {
  v1::Dataset dataset;
  if (!dataset.ParseFromString(record)) {
    return absl::DataLossError("state database: a data set cannot be read");
  }
  return dataset;
}

}  // namespace

bool IsDatasetId(absl::string_view id) {
  return id.size() == kIdLength &&
         std::all_of(id.begin(), id.end(), [](char c) {
           return absl::ascii_isdigit(c) || (c >= 'a' && c <= 'f');
         });
}

DatasetStore::DatasetStore(Options options, Database& database)
    : options_(std::move(options)),
      database_(database),
      sweeper_([this] { Sweep(); }) {}

absl::StatusOr<std::unique_ptr<DatasetStore>> DatasetStore::Open(
    Options options, Database& database) {
  RETURN_IF_ERROR(MakeFolders(options.dir));
  auto store = std::unique_ptr<DatasetStore>(
      new DatasetStore(std::move(options), database));
  RETURN_IF_ERROR(store->LoadTotals());
  RETURN_IF_ERROR(store->DiscardLeftovers());
  return store;
}

DatasetStore::~DatasetStore() {
  const MutexLock lock(sweep_mu_);
  closing_ = true;
}

absl::Status DatasetStore::LoadTotals() {
  const MutexLock lock(change_mu_);
  absl::Status parsed;
  RETURN_IF_ERROR(
      database_.Query("SELECT record FROM datasets", {}, [&](const Row& row) {
        const absl::StatusOr<v1::Dataset> dataset = Parse(row.Bytes(0));
        parsed.Update(dataset.status());
        if (dataset.ok()) total_bytes_ += dataset->bytes();
        ++datasets_;
      }));
  return parsed;
}

absl::Status DatasetStore::DiscardLeftovers() {
  std::vector<fs::path> leftovers, unknown;
  std::error_code error;
  for (fs::directory_iterator it(options_.dir, error), end; !error && it != end;
       it.increment(error)) {
    const std::string name = it->path().filename().native();
    if (absl::StartsWith(name, kIncoming) || absl::StartsWith(name, kTrash)) {
      leftovers.push_back(it->path());
    } else if (IsDatasetId(name) && absl::IsNotFound(Find(name).status())) {
      unknown.push_back(it->path());
    }
  }
  if (error) return absl::ErrnoToStatus(error.value(), "list the data sets");
  for (const fs::path& path : leftovers) RETURN_IF_ERROR(Discard(path));
  for (const fs::path& path : unknown) {
    RETURN_IF_ERROR(SetAside(path, options_.dir.parent_path(),
                             "the database knows no such data set"));
  }
  return absl::OkStatus();
}

absl::StatusOr<v1::Dataset> DatasetStore::Find(absl::string_view id) {
  absl::StatusOr<v1::Dataset> found = NoSuchResourceError("dataset", id);
  RETURN_IF_ERROR(
      database_.Query("SELECT record FROM datasets WHERE id = ?", {id},
                      [&](const Row& row) { found = Parse(row.Bytes(0)); }));
  return found;
}

absl::StatusOr<DatasetStore::Page> DatasetStore::List(
    int page_size, absl::string_view page_token) {
  int64_t before = INT64_MAX;
  if (!page_token.empty() &&
      (!absl::SimpleAtoi(page_token, &before) || before < 1)) {
    return InvalidFieldError("page_token", "one that this server gave");
  }
  Page page;
  int64_t last = 0;
  absl::Status parsed;
  RETURN_IF_ERROR(database_.Query(
      "SELECT ordinal, record FROM datasets WHERE ordinal < ? "
      "ORDER BY ordinal DESC LIMIT ?",
      {before, int64_t{page_size} + 1}, [&](const Row& row) {
        if (page.datasets.size() == static_cast<size_t>(page_size)) {
          page.next_page_token = absl::StrCat(last);
          return;
        }
        last = row.Integer(0);
        absl::StatusOr<v1::Dataset> dataset = Parse(row.Bytes(1));
        parsed.Update(dataset.status());
        if (dataset.ok()) page.datasets.push_back(*std::move(dataset));
      }));
  RETURN_IF_ERROR(parsed);
  return page;
}

fs::path DatasetStore::PathOf(absl::string_view id) const {
  return options_.dir / std::string(id);
}

absl::Status DatasetStore::CheckRoom(uint64_t bytes) const {
  if (datasets_ >= options_.max_datasets) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the server holds ", datasets_,
                     " data sets, as many as it may: delete one first"));
  }
  if (total_bytes_ + bytes > options_.max_total_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "the server's data sets have ", total_bytes_, " of at most ",
        options_.max_total_bytes, " bytes: delete one first"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Upload>> DatasetStore::BeginUpload(
    const std::string& name, const std::string& sha256,
    Upload::Callbacks callbacks) {
  UnpackLimits limits = options_.limits;
  {
    const MutexLock lock(change_mu_);
    RETURN_IF_ERROR(CheckRoom(1));
    limits.max_total_bytes = std::min(limits.max_total_bytes,
                                      options_.max_total_bytes - total_bytes_);
  }
  return std::make_unique<Upload>(
      Upload::Options{.incoming = options_.dir,
                      .name = name,
                      .sha256 = sha256,
                      .limits = limits,
                      .idle_timeout = options_.idle_timeout},
      std::move(callbacks),
      [this](const fs::path& content, const v1::Dataset& dataset) {
        return Publish(content, dataset);
      });
}

absl::StatusOr<v1::Dataset> DatasetStore::Publish(const fs::path& content,
                                                  const v1::Dataset& dataset) {
  const MutexLock lock(change_mu_);
  absl::StatusOr<v1::Dataset> first = Find(dataset.id());
  if (!absl::IsNotFound(first.status())) return first;
  RETURN_IF_ERROR(CheckRoom(static_cast<uint64_t>(dataset.bytes())));
  const fs::path path = PathOf(dataset.id());
  std::error_code ignored;
  if (fs::exists(path, ignored)) RETURN_IF_ERROR(Discard(path));
  absl::Status status = RenameDurably(content, path);
  if (status.ok()) status = Insert(dataset);
  if (!status.ok()) {
    Discard(path).IgnoreError();  // The next start does it again.
    return status;
  }
  total_bytes_ += static_cast<uint64_t>(dataset.bytes());
  ++datasets_;
  return dataset;
}

absl::Status DatasetStore::Insert(const v1::Dataset& dataset) {
  const std::string record = dataset.SerializeAsString();
  return database_.Commit([&](Transaction& transaction) {
    return transaction.Run(
        "INSERT INTO datasets (id, ordinal, record) VALUES "
        "(?, (SELECT COALESCE(MAX(ordinal), 0) + 1 FROM datasets), ?)",
        {dataset.id(), Blob{record}});
  });
}

absl::Status DatasetStore::Delete(const std::string& id) {
  const MutexLock lock(change_mu_);
  v1::Dataset deleted;
  RETURN_IF_ERROR(DeleteRow(id, deleted));
  total_bytes_ -= static_cast<uint64_t>(deleted.bytes());
  --datasets_;
  return Discard(PathOf(id));
}

absl::Status DatasetStore::DeleteRow(const std::string& id,
                                     v1::Dataset& deleted) {
  return database_.Commit([&](Transaction& transaction) -> absl::Status {
    absl::StatusOr<v1::Dataset> found = NoSuchResourceError("dataset", id);
    RETURN_IF_ERROR(
        transaction.Run("SELECT record FROM datasets WHERE id = ?", {id},
                        [&](const Row& row) { found = Parse(row.Bytes(0)); }));
    ASSIGN_OR_RETURN(deleted, std::move(found));
    std::string job;
    RETURN_IF_ERROR(transaction.Run(
        "SELECT job_id FROM jobs WHERE dataset_id = ? "
        "AND state IN (?, ?, ?, ?) LIMIT 1",
        {id, int64_t{v1::JOB_STATE_QUEUED}, int64_t{v1::JOB_STATE_VALIDATING},
         int64_t{v1::JOB_STATE_RUNNING}, int64_t{v1::JOB_STATE_CANCELLING}},
        [&](const Row& row) { job = row.Bytes(0); }));
    if (!job.empty()) {
      return PreconditionError(
          "DATASET", id,
          absl::StrCat("job ", job,
                       " needs this data set: wait for its end or cancel it"));
    }
    return transaction.Run("DELETE FROM datasets WHERE id = ?", {id});
  });
}

absl::Status DatasetStore::Discard(const fs::path& path) {
  fs::path trash = path;
  if (!absl::StartsWith(path.filename().native(), kTrash)) {
    std::string name = (options_.dir / absl::StrCat(kTrash, "XXXXXX")).native();
    if (mkdtemp(name.data()) == nullptr) {
      return absl::ErrnoToStatus(errno, "make a folder for removed data");
    }
    trash = name;
    std::error_code error;
    fs::rename(path, trash / "data", error);
    if (error && error != std::errc::no_such_file_or_directory) {
      return absl::ErrnoToStatus(error.value(), "move a data set away");
    }
  }
  const MutexLock lock(sweep_mu_);
  trash_.push_back(trash);
  return absl::OkStatus();
}

void DatasetStore::Sweep() {
  for (;;) {
    fs::path path;
    {
      const MutexLock lock(sweep_mu_);
      sweep_mu_.Await([this] { return closing_ || !trash_.empty(); });
      if (closing_) return;
      path = std::move(trash_.front());
      trash_.pop_front();
    }
    RemoveTrash(path);
  }
}

// What stays is removed at the next start.
bool DatasetStore::RemoveTrash(const fs::path& path) {
  {
    const MutexLock lock(sweep_mu_);
    if (closing_) return false;
  }
  std::error_code ignored;
  if (fs::is_directory(fs::symlink_status(path, ignored))) {
    for (const auto& entry : fs::directory_iterator(path, ignored)) {
      if (!RemoveTrash(entry.path())) return false;
    }
  }
  fs::remove(path, ignored);
  return true;
}

}  // namespace finetune
