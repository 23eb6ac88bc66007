// `finetune models`, `finetune models delete` and `finetune promote`.

#ifndef CLIENT_MODELS_H_
#define CLIENT_MODELS_H_

#include <ostream>
#include <string>

#include "client/connection.h"
#include "finetune/v1/model.pb.h"

namespace finetune {

// Prints all versions, or those of `name`, newest first, as a table, or as
// JSON: one Model a line.
ExitCode ListModels(const Connection& connection, const std::string& name,
                    std::ostream& out, std::ostream& err);

// `model` is a name and a version, in both.
ExitCode PromoteModel(const Connection& connection, const v1::ModelRef& model,
                      std::ostream& out, std::ostream& err);
ExitCode DeleteModel(const Connection& connection, const v1::ModelRef& model,
                     std::ostream& out, std::ostream& err);

}  // namespace finetune

#endif  // CLIENT_MODELS_H_
