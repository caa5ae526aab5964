#!/usr/bin/env bash
# A command of this workshop that is a crate: `tools/cargo-tool.sh CRATE VERSION MINUTES [ARGUMENT...]` builds it into .tools/bin.
set -euo pipefail
cd "$(dirname "$0")/.."

crate=$1 version=$2 minutes=$3
shift 3
if grep -qs "^\"$crate $version " .tools/.crates.toml; then echo "$crate $version: there"; exit 0; fi
echo "building $crate $version (the first time some $minutes minutes on two cores)"
CARGO_TARGET_DIR=.tools/build/$crate cargo install --quiet --locked --root .tools --version "$version" "$@" "$crate"
rm -rf ".tools/build/$crate"
