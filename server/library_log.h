// What gRPC and Protobuf have to say, as lines of our log: in its form, through
// its bounded queue. Left alone they print on standard error, for some of it
// as often as a stranger likes, and wait for whoever reads there.

#ifndef SERVER_LIBRARY_LOG_H_
#define SERVER_LIBRARY_LOG_H_

#include "google/protobuf/stubs/logging.h"

namespace finetune {

// While one exists the libraries log to ours, and before and after to standard
// error. Make it after SetUpLog, one at a time, and let it go before
// ShutDownLog. How much gRPC says is for GRPC_VERBOSITY: errors by default.
class LibraryLog {
 public:
  LibraryLog();
  ~LibraryLog();
  LibraryLog(const LibraryLog&) = delete;
  LibraryLog& operator=(const LibraryLog&) = delete;

 private:
  google::protobuf::LogHandler* const protobufs_own_;
};

}  // namespace finetune

#endif  // SERVER_LIBRARY_LOG_H_
