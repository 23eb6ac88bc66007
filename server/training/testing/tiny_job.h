// A job on the project's own images that trains in a second or two.

#ifndef SERVER_TRAINING_TESTING_TINY_JOB_H_
#define SERVER_TRAINING_TESTING_TINY_JOB_H_

#include <string>

#include "common/testing/temp_dir.h"
#include "finetune/trainer/trainer.pb.h"
#include "server/data/dataset.h"
#include "server/testing/pictures.h"

namespace finetune::testing {

// Two epochs from scratch, batches of 3, no checkpoints.
inline trainer::TrainerSpec TinySpec() {
  trainer::TrainerSpec spec;
  spec.set_device("cpu");
  spec.set_threads(2);
  spec.set_decode_threads(1);
  spec.set_max_image_pixels(1'000'000);
  auto& p = *spec.mutable_hyper_parameters();
  p.set_learning_rate(0.01);
  p.set_head_learning_rate(0.1);
  p.set_weight_decay(0.001);
  p.set_momentum(0);
  p.set_batch_size(3);
  p.set_epochs(2);
  p.set_seed(7);
  p.set_from_scratch(true);
  return spec;
}

// Two classes: train/{a,b} of `train` images each, test/{a,b} of `test` each.
inline void WriteTinyDataset(const TempDir& dir, int train, int test) {
  const auto write = [&](const std::string& folder, int images,
                         const std::string& image) {
    for (int i = 1; i <= images; ++i) {
      dir.Write(folder + "/" + std::to_string(i), image);
    }
  };
  write("train/a", train, Image("landscape_420.jpg"));
  write("train/b", train, Image("rgb.png"));
  write("test/a", test, Image("portrait_444.jpg"));
  write("test/b", test, Image("rgba.png"));
}

inline Dataset ScanTiny(const TempDir& dir) {
  return *ScanDataset(*OpenImageFolder(dir.path()), {}, 2);
}

}  // namespace finetune::testing

#endif  // SERVER_TRAINING_TESTING_TINY_JOB_H_
