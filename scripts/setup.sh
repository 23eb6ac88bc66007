#!/usr/bin/env bash
# Installs what is needed, configures and builds everything into build/release;
# the programs are in build/release/bin. Quick when nothing changed.
# Reads: LIBTORCH, LIBTORCH_URL (see libtorch.sh)
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

"$root/scripts/install_packages.sh"
"$root/scripts/libtorch.sh"
cd "$root"
ninja_file=build/release/build.ninja
if [[ ! -f $ninja_file || .deps/libtorch.changed -nt $ninja_file ]]; then
  cmake --preset release --fresh
fi
cmake --build --preset release
