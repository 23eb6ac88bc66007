#!/usr/bin/env bash
# Proves build/gpu_kit without a GPU: runs it with --device cpu in a bare system
# that has Python, PyTorch and no network.
#   bare_test.sh [ARGUMENT...]    for run.sh, e.g. --parts job,crash
# Needs root: it mounts and changes the root folder, in namespaces of its own.
# Reads: BARE_ROOT   a root folder that is there, with /usr/bin/python3 of the
#                    version that the packages below are for; default: debootstrap
#                    makes one of this machine's system in build/bare_root
#        CUDA_TORCH  as build_cuda.sh
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
cd "$root"

[[ $EUID -eq 0 ]] || die "needs root: it mounts folders and changes the root"
kit=$root/build/gpu_kit
[[ -f $kit/run.sh ]] || die "no kit in $kit; run scripts/gpu_kit.sh"
torch=${CUDA_TORCH:-}
if [[ -z $torch ]]; then
  torch=$(find "$root/.deps/cuda-env/lib" -maxdepth 3 -path '*/site-packages/torch')
fi
[[ -f $torch/version.py ]] || die "no PyTorch in '$torch'; set CUDA_TORCH"

bare=${BARE_ROOT:-$root/build/bare_root}
if [[ ! -x $bare/usr/bin/python3 ]]; then
  [[ -z ${BARE_ROOT:-} ]] || die "no /usr/bin/python3 in BARE_ROOT=$BARE_ROOT"
  suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
  mirror=$(apt-get indextargets --format "\$(REPO_URI)" "Codename: $suite" "Component: main" |
    awk 'NR == 1')
  [[ -n $mirror ]] || die "apt knows no mirror of $suite"
  rm -rf "$bare.part"
  debootstrap --variant=minbase --include=python3 "$suite" "$bare.part" "$mirror" >&2
  mv "$bare.part" "$bare"
fi

# What the recipe in Python needs; the torch environment has PyTorch alone.
make_python_env "$root/.deps/bare-env" --no-deps torchvision==0.26.0 pillow numpy
recipe_packages=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

out=$root/build/gpu_kit_bare
rm -rf "$out"
mkdir -p "$out" "$bare"/kit "$bare"/out "$bare"/packages/{torch,recipe}

# In the namespaces, which end with it: mounts, a loopback device and nothing
# else of a network.
inside() {
  ip link set lo up
  mount --bind "$kit" "$bare/kit"
  mount --bind "$out" "$bare/out"
  mount --bind "$(dirname "$torch")" "$bare/packages/torch"
  mount --bind "$recipe_packages" "$bare/packages/recipe"
  mount --rbind /dev "$bare/dev"
  mount -t proc proc "$bare/proc"
  exec chroot "$bare" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    HOME=/root PYTHONPATH=/packages/torch:/packages/recipe OUT=/out \
    /kit/run.sh --device cpu "$@"
}
export -f inside
export kit out bare torch recipe_packages
unshare --net --mount --pid --fork --propagation private bash -euo pipefail -c 'inside "$@"' \
  inside "$@"
