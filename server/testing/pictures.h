// The pictures in server/testdata.

#ifndef SERVER_TESTING_PICTURES_H_
#define SERVER_TESTING_PICTURES_H_

#include <string>

#include "common/file.h"
#include "server/testing/test_data.h"

namespace finetune::testing {

// The bytes of images/`name`. REQUIRES: it is there.
inline std::string Image(const std::string& name) {
  return *ReadFile(TestData() / "images" / name, 1 << 20);
}

}  // namespace finetune::testing

#endif  // SERVER_TESTING_PICTURES_H_
