#!/usr/bin/env bash
# Collects what programs need to run, and nothing else, below a folder that
# becomes the root of an image:
#   collect.sh OUT BASE PROGRAM...
#     OUT/usr/local/bin            the programs, stripped
#     OUT/usr/local/lib            the shared libraries they load
#     OUT/var/lib/dpkg/status.d    the packages of these libraries, one file
#                                  each, where image scanners look for them
#     OUT/etc/ssl/certs/ca-certificates.crt
#   BASE is the root of the image that OUT is laid over (what it has is left
#   out), or `none`: then the program loader comes along.
# Packages would be simpler, but apt's dependencies count what is never loaded:
# OpenCV's drag GDAL's tools, data and drivers along.
set -euo pipefail

out=$1 base=$2
shift 2
bin=$out/usr/local/bin lib=$out/usr/local/lib status=$out/var/lib/dpkg/status.d
mkdir -p "$bin" "$lib" "$status" "$out/etc/ssl/certs"
install --strip --mode 755 "$@" "$bin"
cp /etc/ssl/certs/ca-certificates.crt "$out/etc/ssl/certs"

found=$(ldd "$@")
if grep 'not found' <<<"$found"; then
  echo "collect.sh: a library is missing" >&2
  exit 1
fi

# in_base PATH
in_base() { [[ $base != none && -e $base$1 ]]; }

patterns=()
while read -r soname path; do
  in_base "$path" && continue
  cp --dereference "$path" "$lib/$soname"
  patterns+=("*/$(basename "$(realpath "$path")")")
done < <(sed -nE 's/^\s*(\S+) => (\/\S+) .*/\1 \2/p' <<<"$found" | sort -u)

if [[ $base == none ]]; then
  loader=$(sed -nE 's/^\s*(\/\S+) \(0x.*/\1/p' <<<"$found" | head -n 1)
  install -D --mode 755 "$(realpath "$loader")" "$out$loader"
  ldconfig -X -r "$out" /usr/local/lib
fi

# LibTorch's own libraries are of no package.
while read -r package; do
  dpkg-query --status "$package" >"$status/${package%%:*}"
done < <({ dpkg-query --search "${patterns[@]}" 2>/dev/null || true; } |
  sed -nE 's/^(lib\S+): .*/\1/p' | sort -u)
