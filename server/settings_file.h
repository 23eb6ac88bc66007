// The configuration file of --config: settings by the names of their flags, and
// nothing that is left unread. A setting that is misspelt and passed over, such
// as the token file's, would leave a server open.

#ifndef SERVER_SETTINGS_FILE_H_
#define SERVER_SETTINGS_FILE_H_

#include <istream>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/string_view.h"

namespace finetune {

// One `name = value` a line; `-` and `_` are one in names. A value may stand in
// quotes, single or double. Empty lines are skipped, and so is what follows `#`
// outside of quotes; a line may begin with `;`, too.
class SettingsFile : public CLI::Config {
 public:
  // Of the flags that `app` declares, by the time the file is read.
  explicit SettingsFile(const CLI::App& app) : app_(app) {}

  // Throws CLI::ConfigError, one line that names the file and its line: where
  // that is not `name = value` (a section, YAML, JSON), where no flag has the
  // name (the nearest one is told), and where a name comes twice.
  std::vector<CLI::ConfigItem> from_config(std::istream& input) const override;

  // Nothing: the server writes no such file.
  std::string to_config(const CLI::App*, bool, bool,
                        std::string) const override {
    return "";
  }

 private:
  CLI::ConfigItem ParseLine(absl::string_view line) const;

  const CLI::App& app_;
};

// A sentence for each variable of `environment` (as environ) that begins as
// `app`'s do, yet belongs to no flag; it names the nearest one.
std::vector<std::string> UnknownVariables(const CLI::App& app,
                                          const char* const* environment);

}  // namespace finetune

#endif  // SERVER_SETTINGS_FILE_H_
