// `finetune download`: a published model as a file.

#ifndef CLIENT_DOWNLOAD_H_
#define CLIENT_DOWNLOAD_H_

#include <filesystem>
#include <ostream>

#include "client/connection.h"
#include "finetune/v1/model_service.pb.h"

namespace finetune {

struct DownloadOptions {
  v1::ModelFormat format = v1::MODEL_FORMAT_SAFETENSORS;
  // Empty: NAME-VERSION.safetensors or .onnx in the current folder.
  std::filesystem::path file;
  bool force = false;      // Replace a file that is there.
  int terminal_width = 0;  // Columns; 0: not a terminal.
};

// Writes FILE.part, checks its SHA-256 and renames it: FILE is whole or absent,
// and neither a failure nor SIGINT, SIGTERM or SIGHUP, which end the program as
// ever, leaves FILE.part. Shows on `err`, where that is a
// terminal, how far it is; prints the file's name and digest on `out`. Has no
// time limit.
//
// Empty fields of `model` mean what the server promoted.
ExitCode DownloadModel(const Connection& connection, const v1::ModelRef& model,
                       const DownloadOptions& options, std::ostream& out,
                       std::ostream& err);

}  // namespace finetune

#endif  // CLIENT_DOWNLOAD_H_
