// The first token of a server that was given none.

#ifndef SERVER_SERVICE_CREATE_TOKEN_FILE_H_
#define SERVER_SERVICE_CREATE_TOKEN_FILE_H_

#include <filesystem>
#include <string>

#include "absl/status/statusor.h"

namespace finetune {

// Where there is nothing at `path`, writes a token file with one admin token of
// 256 random bits, readable and writable by its owner alone, and returns the
// token. A reader, or another server that does the same at the same time, finds
// no file or all of it. Whatever is there already, be it empty, broken or a
// link, stays as it is; the token returned is then empty.
//
// INVALID_ARGUMENT without a path; others as the file system gives them:
// NOT_FOUND where the folder does not exist. INTERNAL if the system has no
// random numbers.
absl::StatusOr<std::string> CreateTokenFile(const std::filesystem::path& path);

}  // namespace finetune

#endif  // SERVER_SERVICE_CREATE_TOKEN_FILE_H_
