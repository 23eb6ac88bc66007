// finetuned's log, on standard error: spdlog set up once, so that every
// spdlog::info and its kin of all rooms come out in one form.
//
// As text, for people, or as JSON, one object a line, for machines:
//
//   {"time":"2026-01-02T03:04:05.678Z","level":"info","message":"..."}
//
// A line never waits for whoever reads it: lines go through a bounded queue to
// a thread of its own, and where the reader is too slow, the oldest of the
// queue are dropped and counted.

#ifndef SERVER_LOG_H_
#define SERVER_LOG_H_

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>

#include "nlohmann/json.hpp"
#include "spdlog/formatter.h"
#include "spdlog/spdlog.h"

namespace finetune {

struct LogOptions {
  // "text", "json", or "auto": text where the log goes to a terminal.
  std::string format = "auto";
  std::string level = "info";  // As ParseLogLevel.
};

// An event as an object of fields, in their order. One is "message".
using LogFields = nlohmann::ordered_json;

// "debug", "info", "warn", "error". REQUIRES: one of them.
spdlog::level::level_enum ParseLogLevel(const std::string& name);

// From now on all of the process's log goes to `out`. Not thread-safe: call it
// first thing. The process must call ShutDownLog before it returns from main.
void SetUpLog(const LogOptions& options, FILE* out = stderr);

// Writes what waits, and ends the log. Lines that come later are lost.
void ShutDownLog();

// Logs an event: JSON has the fields beside time and level, text has the
// message and then the fields. Thread-safe; does nothing without SetUpLog.
void LogEvent(spdlog::level::level_enum level, const LogFields& fields);

// Lines that were dropped since SetUpLog. Thread-safe.
uint64_t DroppedLogLines();

// What SetUpLog uses for JSON: one line for each message, whatever it holds;
// bytes that are not UTF-8 become U+FFFD.
std::unique_ptr<spdlog::formatter> MakeJsonFormatter();

}  // namespace finetune

#endif  // SERVER_LOG_H_
