// Data sets on their way to the server.

#ifndef CLIENT_UPLOAD_H_
#define CLIENT_UPLOAD_H_

#include <filesystem>
#include <ostream>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/connection.h"
#include "finetune/v1/dataset_service.pb.h"

namespace finetune {

struct UploadOptions {
  std::string name;        // Empty: the folder's or file's.
  int terminal_width = 0;  // Columns; 0: not a terminal.
};

// Sends a tar, tar.gz or zip file as it is, or a folder as a tar of its
// data set (see ListFolder), which has the same checksum each time: what the
// server has already is not sent again. Everything is read twice, to hash and
// to send. Prints how far it is, on a terminal as a bar with bytes, speed and
// ETA. Has no time limit.
//
// FAILED_PRECONDITION if the folder is no data set; the server's error, or that
// of the file system.
absl::StatusOr<v1::UploadDatasetResponse> UploadFolderOrArchive(
    const Connection& connection, const std::filesystem::path& path,
    const UploadOptions& options, std::ostream& out);

// Whether the server would take an upload of ours, which UploadFolderOrArchive
// asks only after it has read everything: a call that needs the same role.
absl::Status CheckMayUpload(const Connection& connection);

// `finetune upload`: prints the data set's id.
ExitCode UploadDataset(const Connection& connection,
                       const std::filesystem::path& path,
                       const UploadOptions& options, std::ostream& out,
                       std::ostream& err);

// Whether `path` is a folder with train/ in it, on this machine.
bool IsDatasetFolder(const std::filesystem::path& path);

// The model name that a server gives to a job on a folder of that name.
std::string ModelNameOf(const std::filesystem::path& folder);

// Whether the folder's name has an ASCII letter or digit that ModelNameOf
// keeps. Names without are all dashes as a model name, many of them the same.
// True for what ends in no name, such as "" or "..".
bool GivesModelName(const std::filesystem::path& folder);

}  // namespace finetune

#endif  // CLIENT_UPLOAD_H_
