// Waiting for a job, in tests.

#ifndef SERVER_JOBS_TESTING_WAIT_H_
#define SERVER_JOBS_TESTING_WAIT_H_

#include <string>

#include "common/mutex.h"
#include "common/testing/status_matchers.h"
#include "gtest/gtest.h"
#include "server/jobs/job_store.h"

namespace finetune::testing {

// Blocks until `reached` holds for the job, and returns it.
template <typename Condition>
v1::FineTuneJob WaitUntil(JobStore& store, const std::string& id,
                          Condition reached) {
  Mutex mu;
  v1::FineTuneJob found;
  const auto watch = store.Watch(id, 0, [&](const JobStore::Snapshot& latest) {
    const MutexLock lock(mu);
    if (found.job_id().empty() && reached(latest->job())) found = latest->job();
  });
  EXPECT_THAT(watch, IsOk());
  {
    const MutexLock lock(mu);
    mu.Await([&] { return !found.job_id().empty(); });
  }
  store.Unwatch(id, *watch);
  return found;
}

inline v1::FineTuneJob WaitForEnd(JobStore& store, const std::string& id) {
  return WaitUntil(store, id, [](const v1::FineTuneJob& job) {
    return IsTerminal(job.state());
  });
}

}  // namespace finetune::testing

#endif  // SERVER_JOBS_TESTING_WAIT_H_
