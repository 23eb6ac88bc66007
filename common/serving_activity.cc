#include "common/serving_activity.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>

namespace finetune {
namespace {

constexpr size_t kBytes = sizeof(std::atomic<int64_t>);
static_assert(std::atomic<int64_t>::is_always_lock_free);

// The same for all processes of the machine.
int64_t Now() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

absl::StatusOr<std::atomic<int64_t>*> Map(int fd, int protection) {
  void* const page = mmap(nullptr, kBytes, protection, MAP_SHARED, fd, 0);
  if (page == MAP_FAILED) return absl::ErrnoToStatus(errno, "map a page");
  return static_cast<std::atomic<int64_t>*>(page);
}

}  // namespace

absl::StatusOr<std::unique_ptr<ServingActivity>> ServingActivity::Create() {
  const int fd = memfd_create("finetuned-serving", MFD_CLOEXEC);
  if (fd < 0) return absl::ErrnoToStatus(errno, "memfd_create");
  if (ftruncate(fd, kBytes) != 0) {
    const absl::Status failed = absl::ErrnoToStatus(errno, "ftruncate");
    close(fd);
    return failed;
  }
  const auto page = Map(fd, PROT_READ | PROT_WRITE);
  if (!page.ok()) {
    close(fd);
    return page.status();
  }
  return std::unique_ptr<ServingActivity>(new ServingActivity(fd, *page));
}

absl::StatusOr<std::unique_ptr<ServingActivity>> ServingActivity::Open(int fd) {
  struct stat file;
  if (fstat(fd, &file) != 0 || !S_ISREG(file.st_mode) ||
      file.st_size != kBytes) {
    return absl::InvalidArgumentError("not a page of a server's activity");
  }
  const auto page = Map(fd, PROT_READ);
  if (!page.ok()) return page.status();
  return std::unique_ptr<ServingActivity>(new ServingActivity(-1, *page));
}

ServingActivity::~ServingActivity() {
  munmap(page_, kBytes);
  if (fd_ >= 0) close(fd_);
}

void ServingActivity::Note() { page_->store(Now(), std::memory_order_relaxed); }

bool ServingActivity::WithinLast(absl::Duration window) const {
  const int64_t noted = page_->load(std::memory_order_relaxed);
  return noted != 0 && Now() - noted < absl::ToInt64Nanoseconds(window);
}

}  // namespace finetune
