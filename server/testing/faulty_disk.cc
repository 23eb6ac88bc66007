#include "server/testing/faulty_disk.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>

// Only what is safe at any moment of any process: no allocation, no C++
// library beyond atomics in the calls themselves.

namespace {

char armed_folder[PATH_MAX];
std::atomic<bool> armed = false;
std::atomic<int> successes_left = 0;
std::atomic<int> armed_error = 0;
std::atomic<bool> has_failed = false;

bool IsBelow(const char* path, const char* folder) {
  const size_t length = strlen(folder);
  return strncmp(path, folder, length) == 0 && path[length] == '/';
}

// What the control file of FAULTY_DISK says; empty without one.
void ReadControl(char (&text)[256]) {
  text[0] = '\0';
  const char* folder = getenv("FAULTY_DISK");
  if (folder == nullptr) return;
  char control[PATH_MAX];
  snprintf(control, sizeof control, "%s.fault", folder);
  const int fd = open(control, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return;
  const ssize_t n = read(fd, text, sizeof text - 1);
  text[n > 0 ? n : 0] = '\0';
  close(fd);
}

// The error that a write to `path` meets; 0: none.
int FaultOf(const char* path) {
  if (armed && IsBelow(path, armed_folder)) {
    if (successes_left.fetch_sub(1) > 0) return 0;
    has_failed = true;
    return armed_error;
  }
  const char* folder = getenv("FAULTY_DISK");
  if (folder == nullptr || !IsBelow(path, folder)) return 0;
  char control[256];
  ReadControl(control);
  return strcmp(control, "full") == 0 ? ENOSPC : 0;
}

int FaultOf(int fd) {
  if (!armed && getenv("FAULTY_DISK") == nullptr) return 0;
  char link[64], path[PATH_MAX];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  const ssize_t n = readlink(link, path, sizeof path - 1);
  if (n <= 0) return 0;
  path[n] = '\0';
  return FaultOf(path);
}

template <typename Function>
Function Next(const char* name) {
  return reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}

// Whether the control file holds `command` and then a part of `path`. Then
// `file` is its name.
bool IsTold(const char* command, const char* path, char (&file)[PATH_MAX]) {
  const char* folder = getenv("FAULTY_DISK");
  if (folder == nullptr || !IsBelow(path, folder)) return false;
  snprintf(file, sizeof file, "%s.fault", folder);
  char control[256];
  ReadControl(control);
  const size_t length = strlen(command);
  return strncmp(control, command, length) == 0 &&
         strstr(path, control + length) != nullptr;
}

void KillIfTold(const char* command, const char* path) {
  char file[PATH_MAX];
  if (!IsTold(command, path, file)) return;
  unlink(file);
  kill(getpid(), SIGKILL);
}

// Leaves "full" of the control file.
void FillIfTold(const char* command, const char* path) {
  char file[PATH_MAX];
  if (IsTold(command, path, file) && truncate(file, strlen("full")) != 0) {
    abort();
  }
}

// Calls `name` of libc with `rest`, unless `target` cannot be written.
template <typename Result, typename Target, typename... Rest>
Result Guarded(const char* name, Target target, Rest... rest) {
  if (const int error = FaultOf(target); error != 0) {
    errno = error;
    return -1;
  }
  return Next<Result (*)(Target, Rest...)>(name)(target, rest...);
}

int Open(const char* name, const char* path, int flags, mode_t mode) {
  if ((flags & O_CREAT) != 0) {
    return Guarded<int>(name, path, flags, mode);
  }
  return Next<int (*)(const char*, int, mode_t)>(name)(path, flags, mode);
}

}  // namespace

extern "C" {

ssize_t write(int fd, const void* data, size_t size) {
  return Guarded<ssize_t>("write", fd, data, size);
}
ssize_t pwrite(int fd, const void* data, size_t size, off_t offset) {
  return Guarded<ssize_t>("pwrite", fd, data, size, offset);
}
ssize_t pwrite64(int fd, const void* data, size_t size, off64_t offset) {
  return Guarded<ssize_t>("pwrite64", fd, data, size, offset);
}
int fsync(int fd) { return Guarded<int>("fsync", fd); }
int fdatasync(int fd) { return Guarded<int>("fdatasync", fd); }
int ftruncate(int fd, off_t size) noexcept {
  return Guarded<int>("ftruncate", fd, size);
}
int ftruncate64(int fd, off64_t size) noexcept {
  return Guarded<int>("ftruncate64", fd, size);
}
int mkdir(const char* path, mode_t mode) noexcept {
  return Guarded<int>("mkdir", path, mode);
}
int rename(const char* from, const char* to) noexcept {
  if (const int error = FaultOf(to); error != 0) {
    errno = error;
    return -1;
  }
  KillIfTold("kill before ", to);
  const int result =
      Next<int (*)(const char*, const char*)>("rename")(from, to);
  KillIfTold("kill after ", to);
  FillIfTold("full after ", to);
  return result;
}
int open(const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = va_arg(arguments, mode_t);
  va_end(arguments);
  return Open("open", path, flags, mode);
}
int open64(const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = va_arg(arguments, mode_t);
  va_end(arguments);
  return Open("open64", path, flags, mode);
}

}  // extern "C"

namespace finetune::testing {

void BreakDisk(const std::filesystem::path& folder, int successes, int error) {
  snprintf(armed_folder, sizeof armed_folder, "%s", folder.c_str());
  successes_left = successes;
  armed_error = error;
  has_failed = false;
  armed = true;
}

bool RepairDisk() {
  armed = false;
  return has_failed;
}

}  // namespace finetune::testing
