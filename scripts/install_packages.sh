#!/usr/bin/env bash
# Installs the system packages of finetuned (Debian 12, Ubuntu 24.04): the one
# list of them. Quick when all are there.
#   install_packages.sh [build]     to build and test (default)
#   install_packages.sh programs    to build the programs only
#   install_packages.sh client      to build the client only
#   install_packages.sh runtime     to run the built programs
# Reads no environment variables. Uses sudo where it does not run as root.
set -euo pipefail

# Headers of the libraries that the programs are linked with.
client_libraries=(
  libgrpc++-dev libprotobuf-dev libabsl-dev libssl-dev libarchive-dev
)
libraries=(
  "${client_libraries[@]}"
  libopencv-core-dev libopencv-imgproc-dev libopencv-imgcodecs-dev
  libjpeg62-turbo-dev libspdlog-dev libsqlite3-dev zlib1g-dev
  libdnnl-dev libonnx-dev prometheus-cpp-dev
)
tools=(
  build-essential cmake ninja-build ccache pkg-config
  protobuf-compiler protobuf-compiler-grpc
  libcli11-dev nlohmann-json3-dev
  python3 python3-pip curl unzip ca-certificates
)
test_tools=(
  libgtest-dev libgmock-dev libbenchmark-dev
  python3-venv clang clang-format clang-tidy
)

fail() {
  echo "install_packages.sh: $*" >&2
  exit 1
}

as_root() {
  if [[ $EUID -eq 0 ]]; then "$@"; else sudo "$@"; fi
}

installed() {
  [[ $(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null) == installed ]]
}

all_installed() {
  local package
  for package in "$@"; do installed "$package" || return 1; done
}

# A package's own shared libraries, as its headers depend on them: their names
# carry versions (libgrpc++1.51, libgrpc++1.51t64) that differ between systems.
shared_libraries_of() {
  apt-cache depends --no-recommends --no-suggests "$@" |
    sed -nE 's/^ *Depends: (lib.*)$/\1/p' |
    grep -vE -- '-dev$' | sort -u
}

# What the fuzzers link: its name carries clang's version.
fuzzer_runtime() {
  { dpkg-query -W -f '${Depends}\n' clang || apt-cache depends clang; } 2>/dev/null |
    sed -nE 's/.*\bclang-([0-9]+).*/libclang-rt-\1-dev/p' | head -n 1
}

group=${1:-build}
[[ $group =~ ^(build|programs|client|runtime)$ ]] || {
  echo "usage: install_packages.sh [build|programs|client|runtime]" >&2
  exit 2
}
command -v apt-get >/dev/null ||
  fail "no apt-get here; install by hand: ${libraries[*]} ${tools[*]} ${test_tools[*]}"
# Where libjpeg-turbo's headers have the other of their two names: Ubuntu.
if installed libjpeg-turbo8-dev; then
  libraries=("${libraries[@]/#libjpeg62-turbo-dev/libjpeg-turbo8-dev}")
fi
if [[ $group == build ]] &&
  all_installed "${libraries[@]}" "${tools[@]}" "${test_tools[@]}" \
    "$(fuzzer_runtime)"; then
  exit 0
fi

echo "installing system packages"
as_root apt-get update -qq
if ! apt-cache show libjpeg62-turbo-dev >/dev/null 2>&1; then
  libraries=("${libraries[@]/#libjpeg62-turbo-dev/libjpeg-turbo8-dev}")
fi
case $group in
  build)
    packages=("${libraries[@]}" "${tools[@]}" "${test_tools[@]}" "$(fuzzer_runtime)")
    ;;
  programs) packages=("${libraries[@]}" "${tools[@]}") ;;
  client) packages=("${client_libraries[@]}" "${tools[@]}") ;;
  runtime)
    mapfile -t packages < <(shared_libraries_of "${libraries[@]}")
    [[ ${#packages[@]} -gt 0 ]] || fail "found no shared libraries to install"
    # LibTorch brings libtorch and libgomp, not the C++ library.
    packages+=(libstdc++6 ca-certificates)
    ;;
esac
as_root env DEBIAN_FRONTEND=noninteractive \
  apt-get install -y -qq --no-install-recommends "${packages[@]}"
