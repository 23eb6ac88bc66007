// How people spell a program's flags.

#ifndef COMMON_FLAG_NAMES_H_
#define COMMON_FLAG_NAMES_H_

#include "CLI/CLI.hpp"

namespace finetune {

// `--state-dir` and `--state_dir` are one flag: writes those of `argv` as `app`
// declares them. Call it before app.parse(argc, argv). What is no flag of
// `app`, and what comes after `--`, is left alone.
void SpellFlagsAs(const CLI::App& app, int argc, char** argv);

}  // namespace finetune

#endif  // COMMON_FLAG_NAMES_H_
