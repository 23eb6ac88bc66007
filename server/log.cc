#include "server/log.h"

#include <unistd.h>

#include <atomic>
#include <utility>

#include "absl/time/time.h"
#include "spdlog/async.h"
#include "spdlog/pattern_formatter.h"
#include "spdlog/sinks/stdout_sinks.h"

namespace finetune {
namespace {

// About 3 MB.
constexpr size_t kMaxWaitingLines = 8192;
// The logger whose messages are LogFields, dumped.
constexpr char kEvents[] = "events";

std::shared_ptr<spdlog::details::thread_pool> writer;
std::shared_ptr<spdlog::logger> events;

std::string Dump(const LogFields& fields) {
  return fields.dump(/*indent=*/-1, /*indent_char=*/' ', /*ensure_ascii=*/false,
                     LogFields::error_handler_t::replace);
}

bool IsEvent(const spdlog::details::log_msg& message) {
  return message.logger_name == kEvents;
}

class JsonFormatter final : public spdlog::formatter {
 public:
  void format(const spdlog::details::log_msg& message,
              spdlog::memory_buf_t& line) override {
    LogFields head;
    head["time"] =
        absl::FormatTime("%Y-%m-%d%ET%H:%M:%E3SZ",
                         absl::FromChrono(message.time), absl::UTCTimeZone());
    const auto level = spdlog::level::to_string_view(message.level);
    head["level"] = std::string(level.data(), level.size());
    const std::string payload(message.payload.data(), message.payload.size());
    if (!IsEvent(message)) head["message"] = payload;
    std::string text = Dump(head);
    if (IsEvent(message)) {
      // Two objects become one: neither is empty.
      text.back() = ',';
      text.append(payload, 1);
    }
    text += '\n';
    line.append(text.data(), text.data() + text.size());
  }

  std::unique_ptr<formatter> clone() const override {
    return std::make_unique<JsonFormatter>();
  }
};

// Standard error, or what a test gives in its place.
class FileSink final
    : public spdlog::sinks::stdout_sink_base<spdlog::details::console_mutex> {
 public:
  explicit FileSink(FILE* file) : stdout_sink_base(file) {}
};

std::shared_ptr<spdlog::logger> MakeLogger(const char* name,
                                           const spdlog::sink_ptr& sink,
                                           const LogOptions& options) {
  auto logger = std::make_shared<spdlog::async_logger>(
      name, sink, writer, spdlog::async_overflow_policy::overrun_oldest);
  logger->set_level(ParseLogLevel(options.level));
  return logger;
}

}  // namespace

spdlog::level::level_enum ParseLogLevel(const std::string& name) {
  return spdlog::level::from_str(name);
}

std::unique_ptr<spdlog::formatter> MakeJsonFormatter() {
  return std::make_unique<JsonFormatter>();
}

void SetUpLog(const LogOptions& options, FILE* out) {
  writer = std::make_shared<spdlog::details::thread_pool>(kMaxWaitingLines, 1);
  const auto sink = std::make_shared<FileSink>(out);
  const bool json = options.format == "json" ||
                    (options.format == "auto" && isatty(fileno(out)) == 0);
  if (json) {
    sink->set_formatter(MakeJsonFormatter());
  } else {
    sink->set_formatter(std::make_unique<spdlog::pattern_formatter>(
        "[%Y-%m-%d %H:%M:%S.%e] [%l] %v"));
  }
  spdlog::set_default_logger(MakeLogger("", sink, options));
  events = MakeLogger(kEvents, sink, options);
}

void ShutDownLog() {
  events.reset();
  spdlog::shutdown();
  writer.reset();  // Waits for its thread, which empties the queue first.
}

void LogEvent(spdlog::level::level_enum level, const LogFields& fields) {
  if (events == nullptr || !events->should_log(level)) return;
  events->log(level, spdlog::string_view_t(Dump(fields)));
}

uint64_t DroppedLogLines() {
  return writer == nullptr ? 0 : writer->overrun_counter();
}

}  // namespace finetune
