// Which part of a training image is looked at: the parameters of torchvision's
// RandomResizedCrop and RandomHorizontalFlip.

#ifndef SERVER_DATA_AUGMENT_H_
#define SERVER_DATA_AUGMENT_H_

#include "server/data/random.h"

namespace finetune {

struct CropBox {  // In pixels; lies within the image.
  int left = 0;
  int top = 0;
  int width = 0;
  int height = 0;
};

// RandomResizedCrop: an area of 8..100 % of the image with an aspect ratio
// (width / height) of 3/4..4/3, log-uniform; after ten tries that do not fit,
// the largest central box whose ratio is within the bounds.
CropBox RandomCropBox(int width, int height, Random& random);

// RandomHorizontalFlip: true half the time.
bool RandomFlip(Random& random);

}  // namespace finetune

#endif  // SERVER_DATA_AUGMENT_H_
