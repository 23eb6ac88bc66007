// Where the files of server/testdata are.

#ifndef SERVER_TESTING_TEST_DATA_H_
#define SERVER_TESTING_TEST_DATA_H_

#include <cstdlib>
#include <filesystem>

namespace finetune::testing {

// $FINETUNE_TESTDATA, for tests that run on another machine than the one that
// built them; else the folder in the source tree.
inline std::filesystem::path TestData() {
  const char* const carried = std::getenv("FINETUNE_TESTDATA");
  return carried != nullptr ? carried : FINETUNE_TESTDATA;
}

}  // namespace finetune::testing

#endif  // SERVER_TESTING_TEST_DATA_H_
