#!/usr/bin/env bash
# Builds everything against a CUDA LibTorch into build/cuda, and runs the tests
# with that build. Needs no GPU; where there is one, tests use the CPU all the
# same, but for those that ask for CUDA.
# Reads: CUDA_TORCH  the folder torch of PyTorch's CUDA package, with NVIDIA's
#                    packages beside it; default: pip brings them (5.5 GB) to
#                    .deps/cuda-env
#        CUDA_HOME   the toolkit, with bin/nvcc; default /usr/local/cuda
#        CUDA_ARCHITECTURES  as TORCH_CUDA_ARCH_LIST; default 9.0
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"

cuda=${CUDA_HOME:-/usr/local/cuda}
[[ -x $cuda/bin/nvcc ]] || die "no CUDA toolkit in $cuda; set CUDA_HOME"
scripts/install_packages.sh
if [[ -z ${CUDA_TORCH:-} ]]; then
  make_python_env "$root/.deps/cuda-env" torch==2.14.1
  CUDA_TORCH=$("$python" -c 'import pathlib, torch; print(pathlib.Path(torch.__file__).parent)')
fi
nvrtc=$(find "$CUDA_TORCH"/../nvidia -name 'libnvrtc.so.*' 2>/dev/null | head -n 1)
[[ -n $nvrtc ]] || die "no NVIDIA packages beside $CUDA_TORCH"

TORCH_CUDA_ARCH_LIST=${CUDA_ARCHITECTURES:-9.0} cmake --preset release -B build/cuda \
  -D Torch_DIR="$CUDA_TORCH/share/cmake/Torch" \
  -D CMAKE_CUDA_COMPILER="$cuda/bin/nvcc" -D CUDA_TOOLKIT_ROOT_DIR="$cuda" \
  -D CUDA_nvrtc_LIBRARY="$nvrtc"
cmake --build build/cuda
ctest --test-dir build/cuda -j2 --timeout 600 --output-on-failure --no-tests=error
