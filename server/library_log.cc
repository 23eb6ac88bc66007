#include "server/library_log.h"

#include <iostream>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "grpc/support/log.h"
#include "server/log.h"

namespace finetune {
namespace {

using spdlog::level::level_enum;

void Log(level_enum level, const char* library, const char* file, int line,
         const std::string& message) {
  LogEvent(level, {{"message", message},
                   {"library", library},
                   {"source", absl::StrCat(file, ":", line)}});
}

// The library aborts now, and the queue's thread with it.
void SayLastWords(const std::string& message) {
  std::cerr << message << std::endl;
}

// The libraries' errors are most often the fault of a stranger who sent
// something broken: for us, warnings.
level_enum FromGrpc(gpr_log_severity severity) {
  switch (severity) {
    case GPR_LOG_SEVERITY_DEBUG:
      return spdlog::level::debug;
    case GPR_LOG_SEVERITY_INFO:
      return spdlog::level::info;
    case GPR_LOG_SEVERITY_ERROR:
      break;
  }
  return spdlog::level::warn;
}

void LogGrpc(gpr_log_func_args* args) {
  Log(FromGrpc(args->severity), "grpc", args->file, args->line, args->message);
  if (absl::StartsWith(args->message, "assertion failed")) {
    SayLastWords(args->message);
  }
}

level_enum FromProtobuf(google::protobuf::LogLevel level) {
  switch (level) {
    case google::protobuf::LOGLEVEL_INFO:
      return spdlog::level::info;
    case google::protobuf::LOGLEVEL_WARNING:
    case google::protobuf::LOGLEVEL_ERROR:
      return spdlog::level::warn;
    case google::protobuf::LOGLEVEL_FATAL:
      break;
  }
  return spdlog::level::critical;
}

void LogProtobuf(google::protobuf::LogLevel level, const char* file, int line,
                 const std::string& message) {
  Log(FromProtobuf(level), "protobuf", file, line, message);
  if (level == google::protobuf::LOGLEVEL_FATAL) SayLastWords(message);
}

}  // namespace

LibraryLog::LibraryLog()
    : protobufs_own_(google::protobuf::SetLogHandler(&LogProtobuf)) {
  gpr_set_log_function(&LogGrpc);
}

LibraryLog::~LibraryLog() {
  gpr_set_log_function(nullptr);  // gRPC's own.
  google::protobuf::SetLogHandler(protobufs_own_);
}

}  // namespace finetune
