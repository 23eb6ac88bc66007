// `finetune datasets`.

#ifndef CLIENT_DATASETS_H_
#define CLIENT_DATASETS_H_

#include <ostream>
#include <string>

#include "client/connection.h"

namespace finetune {

// Prints all uploaded data sets, newest first, a line each.
ExitCode ListDatasets(const Connection& connection, std::ostream& out,
                      std::ostream& err);

ExitCode DeleteDataset(const Connection& connection, const std::string& id,
                       std::ostream& out, std::ostream& err);

}  // namespace finetune

#endif  // CLIENT_DATASETS_H_
