#include "common/token_file.h"

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/token.h"

namespace finetune {
namespace {

Role ToRole(absl::string_view name) {
  if (name == "classify") return Role::kClassify;
  return name == "admin" ? Role::kAdmin : Role::kNone;
}

}  // namespace

absl::StatusOr<std::vector<RoleToken>> ParseTokenFile(
    absl::string_view content) {
  std::vector<RoleToken> tokens;
  int number = 0;
  for (absl::string_view line : absl::StrSplit(content, '\n')) {
    ++number;
    line = absl::StripAsciiWhitespace(line);
    if (line.empty() || line[0] == '#') continue;
    const std::vector<absl::string_view> words =
        absl::StrSplit(line, absl::ByAnyChar(" \t"), absl::SkipEmpty());
    const Role role = ToRole(words[0]);
    if (words.size() != 2 || role == Role::kNone || !IsToken(words[1])) {
      return absl::InvalidArgumentError(absl::StrCat(
          "line ", number, " must be `classify TOKEN` or `admin TOKEN`, and ",
          "a token is ", kTokenForm));
    }
    tokens.push_back({role, std::string(words[1])});
  }
  if (tokens.empty()) {
    return absl::InvalidArgumentError("there is no token in it");
  }
  return tokens;
}

}  // namespace finetune
