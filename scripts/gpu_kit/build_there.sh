#!/usr/bin/env bash
# Builds the part of finetuned that computes on the machine with the GPU, where
# its LibTorch is another than the kit's: build_there.sh WORK TORCH. WORK holds
# sources/ and sdk/, TORCH is the folder of the Python package. Needs nvcc,
# CMake, Ninja and a C++ compiler.
# Reads: CUDA_HOME  the toolkit; default: where nvcc is, or /usr/local/cuda
set -euo pipefail

work=$1 torch=$2
if [[ -z ${CUDA_HOME:-} ]]; then
  nvcc=$(command -v nvcc || true)
  CUDA_HOME=${nvcc:+$(dirname "$(dirname "$(realpath "$nvcc")")")}
  export CUDA_HOME=${CUDA_HOME:-/usr/local/cuda}
fi
capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null |
  head -n 1 || true)
export CUDA_TORCH=$torch CUDA_ARCHITECTURES=${capability:-9.0}
export CMAKE_PREFIX_PATH=$work/sdk/usr PATH=$work/sdk/usr/bin:$PATH

cd "$work/sources"
scripts/build_cuda.sh gpu
cmake --build build/gpu --target predictor_benchmark training_benchmark
