#!/usr/bin/env bash
# The toolchain that rust-toolchain.toml names, with its components and the target of the filters.
set -euo pipefail
cd "$(dirname "$0")/.."

channel=$(sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml)
if ! command -v rustup >/dev/null; then
  # A Rust without rustup will do if it has the target.
  sysroot=$(rustc --print sysroot 2>/dev/null) || { echo "missing: Rust $channel (rustup installs it)" >&2; exit 1; }
  [[ -d $sysroot/lib/rustlib/wasm32-wasip1 ]] && exit 0
  echo "missing: the target wasm32-wasip1 of Rust $channel (rustup installs it)" >&2
  exit 1
fi

# Asked for by name: with RUSTUP_AUTO_INSTALL=0 nothing is installed by itself.
rustup toolchain list | grep -q "^$channel" || rustup toolchain install "$channel" --profile minimal
installed=$(rustup component list --toolchain "$channel" --installed)
for component in clippy rustfmt; do
  grep -q "^$component" <<<"$installed" || rustup component add --toolchain "$channel" "$component"
done
rustup target list --toolchain "$channel" --installed | grep -qx wasm32-wasip1 ||
  rustup target add --toolchain "$channel" wasm32-wasip1
echo "Rust $channel with the target wasm32-wasip1: there"
