#include "server/jobs/job_store.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/rpc_status.h"
#include "common/status_macros.h"
#include "spdlog/spdlog.h"

namespace finetune {
namespace {

// Sequence numbers set aside with each write, so that changes in memory only
// do not come again with the same number after a crash.
constexpr uint64_t kReserve = 1000;

// A page fits into a message of 4 MiB, gRPC's default limit.
constexpr size_t kMaxPageBytes = 3 << 20;

constexpr char kTerminalStates[] = "(5, 6, 7)";
static_assert(v1::JOB_STATE_SUCCEEDED == 5 && v1::JOB_STATE_FAILED == 6 &&
              v1::JOB_STATE_CANCELLED == 7);

constexpr char kNextTicket[] =
    "(SELECT COALESCE(MAX(ticket), 0) + 1 FROM jobs)";

absl::StatusOr<v1::FineTuneJob> ParseJob(const std::string& job_id,
                                         const std::string& record) {
  v1::FineTuneJob job;
  if (!job.ParseFromString(record)) {
    return absl::DataLossError(absl::StrCat("job ", job_id, " is damaged"));
  }
  return job;
}

uint64_t ReservedBy(const v1::WatchProgressResponse& snapshot) {
  return snapshot.sequence() +
         (IsTerminal(snapshot.job().state()) ? 0 : kReserve);
}

}  // namespace

bool IsTerminal(v1::JobState state) {
  return state == v1::JOB_STATE_SUCCEEDED || state == v1::JOB_STATE_FAILED ||
         state == v1::JOB_STATE_CANCELLED;
}

absl::StatusOr<std::unique_ptr<JobStore>> JobStore::Open(Database& database) {
  auto store = std::unique_ptr<JobStore>(new JobStore(database));
  ASSIGN_OR_RETURN(const std::vector<std::string> unfinished,
                   store->Unfinished());
  for (const std::string& job_id : unfinished) {
    const MutexLock lock(store->mu_);
    const absl::StatusOr<Live*> live = store->LiveOf(job_id);
    if (live.ok()) {
      (*live)->reserved = (*live)->latest->sequence();
    } else {
      spdlog::error("left alone: {}", live.status().ToString());
    }
  }
  return store;
}

absl::StatusOr<v1::FineTuneJob> JobStore::Add(v1::FineTuneJob job,
                                              const JobOrigin& origin) {
  auto first = std::make_shared<v1::WatchProgressResponse>();
  first->set_sequence(1);
  *first->mutable_job() = std::move(job);
  const v1::FineTuneJob& added = first->job();
  const uint64_t reserved = ReservedBy(*first);
  const auto text_or_null = [](const std::string& text) {
    return text.empty() ? SqlValue() : SqlValue(text);
  };
  const MutexLock lock(mu_);
  const absl::Status status =
      database_.Commit([&](Transaction& transaction) -> absl::Status {
        if (!origin.dataset_id.empty()) {
          bool found = false;
          RETURN_IF_ERROR(transaction.Run("SELECT 1 FROM datasets WHERE id = ?",
                                          {origin.dataset_id},
                                          [&](const Row&) { found = true; }));
          if (!found) return NoSuchResourceError("dataset", origin.dataset_id);
        }
        return transaction.Run(
            absl::StrCat("INSERT INTO jobs (job_id, state, sequence, ticket, "
                         "dataset_id, dataset_dir, request_id, request_sha256, "
                         "record) VALUES (?, ?, ?, ",
                         kNextTicket, ", ?, ?, ?, ?, ?)"),
            {added.job_id(), int64_t{added.state()},
             static_cast<int64_t>(reserved), text_or_null(origin.dataset_id),
             origin.dataset_dir.native(), text_or_null(origin.request_id),
             text_or_null(origin.request_sha256),
             Blob{added.SerializeAsString()}});
      });
  RETURN_IF_ERROR(status);
  WriteDirty();
  live_[added.job_id()] = {.latest = first, .reserved = reserved};
  return added;
}

absl::StatusOr<v1::FineTuneJob> JobStore::FindRequest(
    const JobOrigin& origin) const {
  std::string job_id, sha256;
  RETURN_IF_ERROR(database_.Query(
      "SELECT job_id, request_sha256 FROM jobs WHERE request_id = ?",
      {origin.request_id}, [&](const Row& row) {
        job_id = row.Bytes(0);
        sha256 = row.Bytes(1);
      }));
  if (job_id.empty()) {
    return NoSuchResourceError("request", origin.request_id);
  }
  if (sha256 != origin.request_sha256) {
    return absl::AlreadyExistsError(
        absl::StrCat("request_id \"", origin.request_id, "\" was used for job ",
                     job_id, " with other settings: give a new one"));
  }
  return Get(job_id);
}

absl::StatusOr<v1::FineTuneJob> JobStore::Get(const std::string& job_id) const {
  const MutexLock lock(mu_);
  ASSIGN_OR_RETURN(const Snapshot latest, SnapshotOf(job_id));
  return latest->job();
}

absl::StatusOr<std::filesystem::path> JobStore::DatasetDirOf(
    const std::string& job_id) const {
  std::string dir;
  RETURN_IF_ERROR(
      database_.Query("SELECT dataset_dir FROM jobs WHERE job_id = ?", {job_id},
                      [&](const Row& row) { dir = row.Bytes(0); }));
  if (dir.empty()) return NoSuchResourceError("job", job_id);
  return dir;
}

absl::StatusOr<JobPage> JobStore::List(const std::vector<v1::JobState>& states,
                                       int page_size,
                                       const std::string& token) const {
  std::string where = token.empty() ? "job_id > ?" : "job_id < ?";
  if (!states.empty()) {
    absl::StrAppend(&where, " AND state IN (",
                    absl::StrJoin(states, ",",
                                  [](std::string* out, v1::JobState state) {
                                    absl::StrAppend(out, int{state});
                                  }),
                    ")");
  }
  std::vector<std::pair<std::string, std::string>> rows;
  RETURN_IF_ERROR(database_.Query(
      absl::StrCat("SELECT job_id, record FROM jobs WHERE ", where,
                   " ORDER BY job_id DESC LIMIT ?"),
      {token, int64_t{page_size} + 1},
      [&](const Row& row) { rows.emplace_back(row.Bytes(0), row.Bytes(1)); }));
  JobPage page;
  size_t bytes = 0;
  const MutexLock lock(mu_);
  for (const auto& [job_id, record] : rows) {
    bytes += record.size();
    if (page.jobs.size() == static_cast<size_t>(page_size) ||
        (!page.jobs.empty() && bytes > kMaxPageBytes)) {
      page.next_token = page.jobs.back().job_id();
      break;
    }
    const auto live = live_.find(job_id);
    if (live != live_.end()) {
      page.jobs.push_back(live->second.latest->job());
    } else {
      ASSIGN_OR_RETURN(v1::FineTuneJob job, ParseJob(job_id, record));
      page.jobs.push_back(std::move(job));
    }
  }
  return page;
}

std::map<v1::JobState, int64_t> JobStore::CountByState() const {
  std::map<v1::JobState, int64_t> counts;
  const MutexLock lock(mu_);
  // Jobs that are live have not ended on disk.
  const absl::Status counted = database_.Query(
      absl::StrCat("SELECT state, COUNT(*) FROM jobs WHERE state IN ",
                   kTerminalStates, " GROUP BY state"),
      {}, [&](const Row& row) {
        counts[static_cast<v1::JobState>(row.Integer(0))] += row.Integer(1);
      });
  if (!counted.ok()) return {};
  for (const auto& [id, live] : live_) ++counts[live.latest->job().state()];
  return counts;
}

absl::StatusOr<std::vector<std::string>> JobStore::Unfinished() const {
  std::vector<std::string> ids;
  RETURN_IF_ERROR(database_.Query(
      absl::StrCat("SELECT job_id FROM jobs WHERE state NOT IN ",
                   kTerminalStates, " ORDER BY ticket"),
      {}, [&](const Row& row) { ids.push_back(row.Bytes(0)); }));
  return ids;
}

absl::Status JobStore::Commit(const std::string& job_id, const ChangeFn& change,
                              const Joint& joint) {
  return Change(job_id, change, joint, Durability::kCommit);
}

absl::Status JobStore::Record(const std::string& job_id,
                              const ChangeFn& change) {
  return Change(job_id, change, {}, Durability::kRecord);
}

absl::Status JobStore::Report(const std::string& job_id,
                              const ChangeFn& change) {
  return Change(job_id, change, {}, Durability::kReport);
}

absl::Status JobStore::Change(const std::string& job_id, const ChangeFn& change,
                              const Joint& joint, Durability durability) {
  const MutexLock lock(mu_);
  ASSIGN_OR_RETURN(Live* const live, LiveOf(job_id));
  auto next = std::make_shared<v1::WatchProgressResponse>(*live->latest);
  next->set_sequence(next->sequence() + 1);
  const bool had_ended = IsTerminal(next->job().state());
  absl::Status status = change(*next->mutable_job());
  const bool write =
      durability != Durability::kReport || next->sequence() > live->reserved;
  if (status.ok() && write) {
    const bool resumed = had_ended && !IsTerminal(next->job().state());
    status = Write(*next, resumed, joint, *live);
    const bool kept = !status.ok() && durability != Durability::kCommit;
    live->dirty = !status.ok() && (live->dirty || kept);
    if (kept) {
      spdlog::error("job {} is not on disk: {}", job_id, status.ToString());
      status = absl::OkStatus();
    }
  }
  if (status.ok()) {
    live->latest = next;
    for (const auto& [id, watch] : live->watches) watch(next);
  }
  const bool disk_is_well = write && status.ok() && !live->dirty;
  if (IsTerminal(live->latest->job().state()) && !live->dirty) {
    live_.erase(job_id);
  }
  if (disk_is_well) WriteDirty();
  return status;
}

void JobStore::WriteDirty() {
  for (auto it = live_.begin(); it != live_.end();) {
    Live& live = it->second;
    if (live.dirty && Write(*live.latest, false, {}, live).ok()) {
      live.dirty = false;
      if (IsTerminal(live.latest->job().state())) {
        it = live_.erase(it);
        continue;
      }
    }
    ++it;
  }
}

absl::StatusOr<uint64_t> JobStore::Watch(const std::string& job_id,
                                         uint64_t after_sequence,
                                         WatchFn watch) {
  const MutexLock lock(mu_);
  ASSIGN_OR_RETURN(const Snapshot latest, SnapshotOf(job_id));
  if (watching_ended_) {
    return ShuttingDownError();
  }
  if (latest->sequence() > after_sequence ||
      IsTerminal(latest->job().state())) {
    watch(latest);
  }
  const uint64_t id = next_watch_++;
  const auto live = live_.find(job_id);
  if (live != live_.end()) live->second.watches.emplace(id, std::move(watch));
  return id;
}

void JobStore::Unwatch(const std::string& job_id, uint64_t watch_id) {
  const MutexLock lock(mu_);
  const auto live = live_.find(job_id);
  if (live != live_.end()) live->second.watches.erase(watch_id);
}

void JobStore::EndWatches() {
  const MutexLock lock(mu_);
  watching_ended_ = true;
  for (auto& [job_id, live] : live_) {
    for (const auto& [id, watch] : live.watches) watch(nullptr);
    live.watches.clear();
  }
}

absl::StatusOr<std::vector<std::string>> JobStore::Trim(size_t max_jobs) {
  std::vector<std::string> ids;
  RETURN_IF_ERROR(database_.Commit([&](Transaction& transaction) {
    return transaction.Run(
        absl::StrCat("DELETE FROM jobs WHERE job_id IN (SELECT job_id FROM "
                     "jobs WHERE state IN ",
                     kTerminalStates,
                     " ORDER BY job_id LIMIT MAX(0, (SELECT COUNT(*) FROM "
                     "jobs) - ?)) RETURNING job_id"),
        {static_cast<int64_t>(max_jobs)},
        [&](const Row& row) { ids.push_back(row.Bytes(0)); });
  }));
  return ids;
}

// The job in memory, brought there if it is not.
absl::StatusOr<JobStore::Live*> JobStore::LiveOf(const std::string& job_id) {
  ASSIGN_OR_RETURN(Snapshot latest, SnapshotOf(job_id));
  Live& live = live_[job_id];
  if (live.latest == nullptr) live.latest = std::move(latest);
  return &live;
}

absl::StatusOr<JobStore::Snapshot> JobStore::SnapshotOf(
    const std::string& job_id) const {
  const auto live = live_.find(job_id);
  if (live != live_.end()) return live->second.latest;
  std::string record;
  auto snapshot = std::make_shared<v1::WatchProgressResponse>();
  RETURN_IF_ERROR(database_.Query(
      "SELECT sequence, record FROM jobs WHERE job_id = ?", {job_id},
      [&](const Row& row) {
        snapshot->set_sequence(static_cast<uint64_t>(row.Integer(0)));
        record = row.Bytes(1);
      }));
  if (snapshot->sequence() == 0) return NoSuchResourceError("job", job_id);
  ASSIGN_OR_RETURN(*snapshot->mutable_job(), ParseJob(job_id, record));
  return snapshot;
}

absl::Status JobStore::Write(const v1::WatchProgressResponse& next,
                             bool new_ticket, const Joint& joint, Live& live) {
  const uint64_t reserved = ReservedBy(next);
  RETURN_IF_ERROR(
      database_.Commit([&](Transaction& transaction) -> absl::Status {
        if (joint.write) RETURN_IF_ERROR(joint.write(transaction));
        return transaction.Run(
            absl::StrCat(
                "UPDATE jobs SET state = ?, sequence = ?, record = ?",
                new_ticket ? absl::StrCat(", ticket = ", kNextTicket) : "",
                " WHERE job_id = ?"),
            {int64_t{next.job().state()}, static_cast<int64_t>(reserved),
             Blob{next.job().SerializeAsString()}, next.job().job_id()});
      }));
  live.reserved = reserved;
  if (joint.apply) joint.apply();
  return absl::OkStatus();
}

}  // namespace finetune
