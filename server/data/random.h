// Random numbers that depend on what they are for, not on when they are drawn:
// each (seed, epoch, sample) has a sequence of its own, so threads, restarts
// and the order of work change nothing.
//
// The generator is SplitMix64 (Steele, Lea, Flood 2014). Its own arithmetic,
// rather than <random>'s distributions, keeps sequences equal across standard
// libraries.

#ifndef SERVER_DATA_RANDOM_H_
#define SERVER_DATA_RANDOM_H_

#include <cstddef>
#include <cstdint>
#include <vector>

namespace finetune {

class Random {
 public:
  Random(uint64_t seed, uint64_t epoch, uint64_t sample) : state_(seed) {
    state_ = Next() ^ epoch;
    state_ = Next() ^ sample;
    state_ = Next();
  }

  uint64_t Next() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }

  // Uniform in [low, high).
  double Uniform(double low, double high) {
    return low + (high - low) * static_cast<double>(Next() >> 11) * 0x1p-53;
  }

  // Uniform in 0..n-1, up to a bias of n / 2^64. REQUIRES: n > 0.
  uint64_t Below(uint64_t n) {
    return static_cast<uint64_t>((static_cast<Wide>(Next()) * n) >> 64);
  }

 private:
  __extension__ using Wide = unsigned __int128;

  uint64_t state_;
};

// 0..n-1 in random order (Fisher-Yates).
inline std::vector<size_t> RandomOrder(size_t n, Random random) {
  std::vector<size_t> order(n);
  for (size_t i = 0; i < n; ++i) {
    const size_t j = random.Below(i + 1);
    order[i] = order[j];
    order[j] = i;
  }
  return order;
}

}  // namespace finetune

#endif  // SERVER_DATA_RANDOM_H_
