#include "server/settings_file.h"

#include <algorithm>
#include <numeric>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace finetune {
namespace {

constexpr absl::string_view kNameCharacters =
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-";
constexpr absl::string_view kVariablePrefix = "FINETUNED_";

// Characters to add, remove or replace.
size_t EditDistance(absl::string_view a, absl::string_view b) {
  std::vector<size_t> row(b.size() + 1);  // To the beginnings of `b`.
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i + 1;
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t replaced = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({replaced, row[j] + 1, diagonal + 1});
    }
  }
  return row.back();
}

// "; did you mean ...?", or where nothing is near, where to look. All names
// begin with the same `prefix`.
std::string Advice(const std::string& name,
                   const std::vector<std::string>& known,
                   absl::string_view prefix = "") {
  std::string nearest;
  // With more edits hardly a character is right.
  size_t least = (name.size() - prefix.size()) / 2 + 1;
  for (const std::string& candidate : known) {
    const size_t distance = EditDistance(name, candidate);
    if (distance >= least) continue;
    least = distance;
    nearest = candidate;
  }
  if (nearest.empty()) return "; --help lists them";
  return absl::StrCat("; did you mean ", nearest, "?");
}

// The names that a file may set, without dashes.
std::vector<std::string> KnownNames(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* const option : app.get_options()) {
    if (!option->get_configurable()) continue;
    names.insert(names.end(), option->get_lnames().begin(),
                 option->get_lnames().end());
  }
  return names;
}

// The line's first word alone: the rest may be a secret.
CLI::ConfigError NotASetting(absl::string_view line) {
  const size_t end = std::min({line.find_first_of(" \t=:"), size_t{40}});
  return CLI::ConfigError(absl::StrCat(
      "\"", absl::CHexEscape(line.substr(0, end)),
      "\": a line must be `name = value`; sections, YAML and JSON are not "
      "read"));
}

// What is between the quotes, or before the comment. `text` is what follows
// the `=` of `line`.
std::string ValueOf(absl::string_view text, absl::string_view line) {
  if (!absl::StartsWith(text, "\"") && !absl::StartsWith(text, "'")) {
    return std::string(
        absl::StripTrailingAsciiWhitespace(text.substr(0, text.find('#'))));
  }
  const size_t end = text.find(text[0], 1);
  if (end == absl::string_view::npos) throw NotASetting(line);
  const absl::string_view rest =
      absl::StripLeadingAsciiWhitespace(text.substr(end + 1));
  if (!rest.empty() && rest[0] != '#') throw NotASetting(line);
  return std::string(text.substr(1, end - 1));
}

// What stands before each error.
std::string Place(const CLI::App& app, int line) {
  const CLI::Option* const config = app.get_config_ptr();
  const std::string file = config == nullptr || config->results().empty()
                               ? "configuration file"
                               : config->results().back();
  return absl::StrCat(file, ", line ", line, ": ");
}

}  // namespace

CLI::ConfigItem SettingsFile::ParseLine(absl::string_view line) const {
  const size_t equals = line.find('=');
  if (equals == absl::string_view::npos) throw NotASetting(line);
  std::string name(absl::StripTrailingAsciiWhitespace(line.substr(0, equals)));
  if (name.empty() ||
      name.find_first_not_of(std::string(kNameCharacters)) != name.npos) {
    throw NotASetting(line);
  }
  CLI::ConfigItem item;
  item.inputs = {ValueOf(
      absl::StripLeadingAsciiWhitespace(line.substr(equals + 1)), line)};
  item.name = name;
  std::replace(item.name.begin(), item.name.end(), '-', '_');
  const std::vector<std::string> known = KnownNames(app_);
  if (std::find(known.begin(), known.end(), item.name) == known.end()) {
    throw CLI::ConfigError(
        absl::StrCat("there is no setting ", name, Advice(item.name, known)));
  }
  return item;
}

std::vector<CLI::ConfigItem> SettingsFile::from_config(
    std::istream& input) const {
  std::vector<CLI::ConfigItem> items;
  std::set<std::string> seen;
  std::string line;
  for (int number = 1; std::getline(input, line); ++number) {
    const absl::string_view text = absl::StripAsciiWhitespace(line);
    if (text.empty() || text[0] == '#' || text[0] == ';') continue;
    try {
      items.push_back(ParseLine(text));
      if (!seen.insert(items.back().name).second) {
        throw CLI::ConfigError(items.back().name + " is set a second time");
      }
    } catch (const CLI::ConfigError& error) {
      throw CLI::ConfigError(Place(app_, number) + error.what());
    }
  }
  return items;
}

std::vector<std::string> UnknownVariables(const CLI::App& app,
                                          const char* const* environment) {
  std::vector<std::string> known, sentences;
  for (const CLI::Option* const option : app.get_options()) {
    if (!option->get_envname().empty()) known.push_back(option->get_envname());
  }
  for (; *environment != nullptr; ++environment) {
    const absl::string_view variable = *environment;
    if (!absl::StartsWith(variable, kVariablePrefix)) continue;
    const std::string name(variable.substr(0, variable.find('=')));
    if (std::find(known.begin(), known.end(), name) != known.end()) continue;
    sentences.push_back(absl::StrCat("the environment variable ",
                                     absl::CHexEscape(name), " is no setting",
                                     Advice(name, known, kVariablePrefix)));
  }
  return sentences;
}

}  // namespace finetune
