#!/usr/bin/env bash
# What users install, into dist/: for each processor a wheel and a tarball, with lists of what they are made of, and checksums of all.
# Built twice from one commit the files are the same, wherever that is, and they name no folder of the machine.
#
#   tools/dist.sh [x86_64|aarch64]...
#
# The version is that of the tag (v1.2.3) where the commit has one, else the workspace's.
set -euo pipefail
cd "$(dirname "$0")/.."

tools/maturin.sh
tools/cargo-cyclonedx.sh

tag=$(git describe --tags --exact-match --match 'v[0-9]*' 2>/dev/null || true)
workspace=$(sed -n '/^\[workspace\.package\]/,/^\[/s/^version = "\(.*\)"$/\1/p' Cargo.toml)
version=${tag#v}
version=${version:-$workspace}
export ENVOY_RUNTIME_VERSION=$version
ENVOY_RUNTIME_COMMIT=$(git describe --always --dirty --abbrev=12 --exclude '*')
export ENVOY_RUNTIME_COMMIT
# The time of every file: the commit's.
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH

work=$PWD/target/dist
export CARGO_TARGET_DIR=$work
# In messages of failures stand names of source files: as seen from the workspace and from cargo's home.
cargo_home=${CARGO_HOME:-$HOME/.cargo}
flags=("--remap-path-prefix=$cargo_home=/cargo" "--remap-path-prefix=$PWD=/envoy-runtime")
CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f'; echo "${flags[*]}")
export CARGO_ENCODED_RUSTFLAGS

rm -rf dist "$work/python" "$work/sbom" "$work/tar"
mkdir -p dist "$work/python" "$work/sbom" "$work/tar"

tools/filters.sh filter "$work/filters"
export ENVOY_RUNTIME_FILTERS=$work/filters

# Each list lies beside the manifest that it is made of, until it is moved here; a path in it is seen from the workspace.
for part in cli filters/wasm filters/tunnel; do
  name=$(sed -n 's/^name = "\(.*\)"$/\1/p' $part/Cargo.toml | head -1)
  target=(--target wasm32-wasip1)
  [[ $part == cli ]] && target=(--target x86_64-unknown-linux-gnu)
  .tools/bin/cargo-cyclonedx cyclonedx --quiet --manifest-path $part/Cargo.toml --format json --spec-version 1.5 --no-build-deps \
    "${target[@]}" --override-filename dist-sbom
  sed "s|$PWD|/envoy-runtime|g" "$part/dist-sbom.json" >"$work/sbom/$name.cdx.json"
  git ls-files --others --exclude-standard -- '*dist-sbom.json' | xargs rm -f
done

sed "s/@VERSION@/$version/" tools/dist/pyproject.toml >"$work/python/pyproject.toml"
cp LICENSE tools/dist/README.md "$work/python/"

# This machine's own first: it runs the program, whose own words completions and the manual page are.
told=
architectures=()
for architecture in "${@:-$(uname -m)}"; do
  if [[ $architecture == "$(uname -m)" ]]; then
    architectures=("$architecture" "${architectures[@]}")
  else
    architectures+=("$architecture")
  fi
done
for architecture in "${architectures[@]}"; do
  triple=$architecture-unknown-linux-gnu
  if ! [[ -d $(rustc --print sysroot)/lib/rustlib/$triple ]] && ! rustup target add "$triple"; then
    echo "skipped $architecture: the target $triple is not installed" >&2
    continue
  fi
  echo "building the wheel for $architecture (the first time three minutes on two cores)"
  (
    cd "$work/python"
    PATH=$OLDPWD/.tools/maturin/bin:$PATH maturin build --quiet --release --locked --zig --target "$triple" \
      --compatibility manylinux2014 --out "$OLDPWD/dist" --sbom-include "$work"/sbom/*.cdx.json
  )
  wheel=$(echo dist/*"_$architecture.whl")
  name=envoy-runtime-$version-linux-$architecture
  folder=$work/tar/$name
  mkdir -p "$folder"/{completions,examples,sbom}
  # The program in both is the same file.
  .tools/maturin/bin/python -m zipfile -e "$wheel" "$work/tar/wheel-$architecture"
  install -m 755 "$work/tar/wheel-$architecture"/*.data/scripts/envoy-runtime "$folder/envoy-runtime"
  [[ $architecture == "$(uname -m)" ]] && told=$folder/envoy-runtime
  if [[ -z $told ]]; then
    echo "skipped the tarball for $architecture: only with that for $(uname -m), whose program tells the completions" >&2
    continue
  fi
  (unset ENVOY_RUNTIME_FILTERS; "$told" extract "$folder/filters" && "$told" man >"$folder/envoy-runtime.1")
  "$told" completions bash >"$folder/completions/envoy-runtime.bash"
  "$told" completions fish >"$folder/completions/envoy-runtime.fish"
  "$told" completions zsh >"$folder/completions/_envoy-runtime"
  git archive HEAD envoy-configs | tar -x -C "$folder/examples" --strip-components=1
  cp LICENSE CHANGELOG.md tools/dist/Containerfile "$folder/"
  cp "$work"/sbom/*.cdx.json "$folder/sbom/"
  tar -C "$work/tar" --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner --mode=u+rw,go+r,go-w -cf - "$name" |
    gzip --no-name --best >"dist/$name.tar.gz"

  if grep -rlaF -e "$PWD/" -e "$cargo_home/" -e "$HOME/" "$folder"; then
    echo "these files name a folder of this machine" >&2
    exit 1
  fi
done
cp "$work"/sbom/*.cdx.json dist/
(cd dist && sha256sum -- *.whl *.tar.gz *.cdx.json >SHA256SUMS)

for engine in docker podman; do
  if "$engine" info >/dev/null 2>&1; then
    "$engine" build -f tools/dist/Containerfile -t "envoy-runtime:$version" dist
    built=1
    break
  fi
done
[[ ${built:-} ]] || echo "skipped the container image: neither Docker nor Podman answers (see tools/dist/Containerfile)"
echo "dist/ has version $version of commit $ENVOY_RUNTIME_COMMIT:"
cat dist/SHA256SUMS
