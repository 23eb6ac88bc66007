#!/usr/bin/env bash
# Builds against a CUDA LibTorch, and runs the tests with that build. Needs no
# GPU: tests use the CPU, and those that ask for a GPU are skipped without one.
#   build_cuda.sh [cuda]   everything, into build/cuda
#   build_cuda.sh gpu      what computes and the tests that ask for a GPU, into
#                          build/gpu: without gRPC, OpenCV and what stores
#                          things; installs no system packages
#   build_cuda.sh kit      what scripts/gpu_kit.sh packs, into build/kit: the
#                          programs without OpenCV, and those tests
# Reads: CUDA_TORCH  the folder torch of PyTorch's CUDA package, with NVIDIA's
#                    packages beside it; default: pip brings them (5.5 GB) to
#                    .deps/cuda-env
#        CUDA_HOME   the toolkit, with bin/nvcc; default /usr/local/cuda
#        CUDA_ARCHITECTURES  as TORCH_CUDA_ARCH_LIST; default 9.0
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"

preset=${1:-cuda}
[[ $preset =~ ^(cuda|gpu|kit)$ ]] || die "usage: build_cuda.sh [cuda|gpu|kit]"
cuda=${CUDA_HOME:-/usr/local/cuda}
[[ -x $cuda/bin/nvcc ]] || die "no CUDA toolkit in $cuda; set CUDA_HOME"
[[ $preset == gpu ]] || scripts/install_packages.sh
if [[ -z ${CUDA_TORCH:-} ]]; then
  make_python_env "$root/.deps/cuda-env" torch==2.11.0
  CUDA_TORCH=$("$python" -c 'import pathlib, torch; print(pathlib.Path(torch.__file__).parent)')
fi
nvrtc=$(find "$CUDA_TORCH"/../nvidia -name 'libnvrtc.so.*' 2>/dev/null | head -n 1)
[[ -n $nvrtc ]] || die "no NVIDIA packages beside $CUDA_TORCH"

# In the cache, not the environment: Ninja may run CMake again by itself.
cmake --preset "$preset" \
  -D TORCH_CUDA_ARCH_LIST="${CUDA_ARCHITECTURES:-9.0}" \
  -D Torch_DIR="$CUDA_TORCH/share/cmake/Torch" \
  -D CMAKE_CUDA_COMPILER="$cuda/bin/nvcc" -D CUDA_TOOLKIT_ROOT_DIR="$cuda" \
  -D CUDA_nvrtc_LIBRARY="$nvrtc"
cmake --build --preset "$preset"
ctest --preset "$preset" -j2 --timeout 600 --output-on-failure --no-tests=error
