#include "common/flag_names.h"

#include <algorithm>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/string_view.h"

namespace finetune {
namespace {

bool AreOneName(absl::string_view a, absl::string_view b) {
  const auto same = [](char x, char y) {
    return x == y || (x == '-' && y == '_') || (x == '_' && y == '-');
  };
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), same);
}

// Over the `name`, which lies in an argument, as `app` spells it.
void SpellAs(const CLI::App& app, absl::string_view name, char* place) {
  for (const CLI::Option* const option : app.get_options()) {
    for (const std::string& known : option->get_lnames()) {
      if (!AreOneName(name, known)) continue;
      std::copy(known.begin(), known.end(), place);
      return;
    }
  }
}

}  // namespace

void SpellFlagsAs(const CLI::App& app, int argc, char** argv) {
  constexpr size_t kDashes = 2;
  for (int i = 1; i < argc; ++i) {
    const absl::string_view argument = argv[i];
    if (argument == "--") return;
    if (!absl::StartsWith(argument, "--")) continue;
    const size_t end = std::min(argument.find('='), argument.size());
    SpellAs(app, argument.substr(kDashes, end - kDashes), argv[i] + kDashes);
  }
}

}  // namespace finetune
