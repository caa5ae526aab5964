#!/usr/bin/env bash
# Builds the filters: runtime.wasm with all drivers, runtime-state.wasm with those for state alone, and tunnel.wasm.
#
#   tools/filters.sh PROFILE FOLDER [needed|trap]
#
# PROFILE is one of Cargo.toml's. FOLDER gets the files, and beside each what it was made of (`runtime.wasm.d`, as cargo tells it): the tests
# look there whether a filter is older than its sources. With `needed`, runtime-state.wasm is left out unless it is there from before:
# runtime.wasm serves what it serves, and takes more memory for it. With `trap` only runtime-trap.wasm is built, which has a method that
# traps, for tests.
set -euo pipefail
cd "$(dirname "$0")/.."

profile=$1 folder=$2 which=${3:-all}
built=${CARGO_TARGET_DIR:-target}/wasm32-wasip1/$profile
mkdir -p "$folder"

# Both builds of the runtime are of one profile, so in one folder, where what they have in common is compiled once. The second overwrites
# the first's file, hence the copies. They keep their times and are made only of what is newer, so that nothing is built anew where nothing
# has changed; and they are never written through a link, which may lead to another build's.
keep() { # FILE NAME
  [[ $built/$1.wasm -nt $folder/$2 ]] || return 0
  cp --remove-destination --preserve=timestamps "$built/$1.d" "$folder/$2.d"
  cp --remove-destination --preserve=timestamps "$built/$1.wasm" "$folder/$2"
}

if [[ $which == trap ]]; then
  echo "building runtime-trap.wasm"
  cargo build --profile "$profile" --target wasm32-wasip1 -p runtime-filter --features trap
  keep runtime runtime-trap.wasm
  exit 0
fi
echo "building runtime.wasm and tunnel.wasm (profile $profile; the first time one or two minutes on two cores)"
cargo build --profile "$profile" --target wasm32-wasip1 -p runtime-filter -p tunnel-filter
keep runtime runtime.wasm
keep tunnel tunnel.wasm
if [[ $which == needed && ! -e $folder/runtime-state.wasm ]]; then
  echo "skipped runtime-state.wasm: runtime.wasm serves the same"
  exit 0
fi
echo "building runtime-state.wasm"
cargo build --profile "$profile" --target wasm32-wasip1 -p runtime-filter --no-default-features
keep runtime runtime-state.wasm
