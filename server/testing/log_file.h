// A file for SetUpLog to write to.

#ifndef SERVER_TESTING_LOG_FILE_H_
#define SERVER_TESTING_LOG_FILE_H_

#include <cstdio>
#include <string>
#include <vector>

#include "server/log.h"

namespace finetune::testing {

class LogFile {
 public:
  LogFile() : file_(tmpfile()) {}
  ~LogFile() { fclose(file_); }
  LogFile(const LogFile&) = delete;
  LogFile& operator=(const LogFile&) = delete;

  FILE* get() const { return file_; }

  // Ends the log and returns its lines.
  std::vector<std::string> Lines() {
    ShutDownLog();
    rewind(file_);
    std::vector<std::string> lines;
    char line[4096];
    while (fgets(line, sizeof line, file_) != nullptr) lines.push_back(line);
    return lines;
  }

 private:
  FILE* const file_;
};

}  // namespace finetune::testing

#endif  // SERVER_TESTING_LOG_FILE_H_
