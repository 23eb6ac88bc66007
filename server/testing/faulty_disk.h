// A disk that fails when a test says so: calls of this process that write
// below a folder, our own and those of the libraries, return an error.
//
// Linked into a test, whose definitions of write() and its kin come before
// libc's. As libfaulty_disk.so, preloaded, it does the same to other programs,
// told by files:
//
//   FAULTY_DISK=FOLDER  what is below FOLDER fails as FOLDER.fault says:
//                       "full"          ENOSPC
//                       "full after X"  the same, once a process has renamed to
//                                       a path with X in it
//                       "kill before X", "kill after X"
//                                       the process that does so is killed just
//                                       before or after; the file is removed
//                                       first
//
// For one thread that arms and disarms; writers may be many.

#ifndef SERVER_TESTING_FAULTY_DISK_H_
#define SERVER_TESTING_FAULTY_DISK_H_

#include <filesystem>

namespace finetune::testing {

// From now on, after `successes` more calls that write below `folder`, all of
// them fail with `error` (ENOSPC, EIO).
void BreakDisk(const std::filesystem::path& folder, int successes, int error);

// Repairs it. Returns whether a call failed since.
bool RepairDisk();

}  // namespace finetune::testing

#endif  // SERVER_TESTING_FAULTY_DISK_H_
