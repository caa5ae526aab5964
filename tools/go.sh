#!/usr/bin/env bash
# The Go that builds servers and tools: `tools/go.sh MODULE OUTPUT VERSION PACKAGE` builds PACKAGE of the module tools/MODULE, as its
# go.mod and go.sum pin it, into .tools/OUTPUT. VERSION is what is told to the program as its version.
# A Go of 1.21 or newer fetches by itself the one that go.mod asks for; where there is none, that one is fetched here, from the same proxy.
set -euo pipefail
cd "$(dirname "$0")/.."

module=$1 output=$2 version=$3 package=$4
toolchain=1.26.8
# Built again when what pins it changes.
stamp=.tools/$output.sum
pinned=$(find tools/go.sh "tools/$module" -type f | sort | xargs sha256sum | sha256sum)
if [[ -x .tools/$output && $(cat "$stamp" 2>/dev/null) == "$pinned" ]]; then exit 0; fi

proxy=${GOPROXY:-https://proxy.golang.org}
proxy=${proxy%%[,|]*}

fetch_go() {
  local architecture expected scratch
  case $(uname -m) in
    x86_64) architecture=amd64 expected=30c2b1bf7dcc88d3eb0a1364e47ddd9128edb3110a30e8a0ef61cd5856b31de7 ;;
    aarch64) architecture=arm64 expected=02b36b6787b3ac767668f630e2998df45a3b1f9ffee08d1bf3ef6487cd658d99 ;;
    *) echo "missing: Go 1.21 or newer" >&2; exit 1 ;;
  esac
  echo "fetching Go $toolchain"
  mkdir -p .tools
  scratch=$(mktemp -d .tools/fetch-XXXXXX)
  trap 'rm -rf "$scratch"' EXIT
  curl --fail --silent --show-error --location --retry 3 --output "$scratch/go.zip" \
    "$proxy/golang.org/toolchain/@v/v0.0.1-go$toolchain.linux-$architecture.zip"
  echo "$expected  $scratch/go.zip" | sha256sum --check --quiet
  python3 -m zipfile -e "$scratch/go.zip" "$scratch/unpacked"
  mv "$scratch"/unpacked/golang.org/* "$scratch/go"
  chmod -R +x "$scratch/go/bin" "$scratch/go/pkg/tool"
  rm -rf .tools/go
  mv "$scratch/go" .tools/go
  rm -rf "$scratch"
  trap - EXIT
}

go=go
if ! go version 2>/dev/null | grep -Eq 'go(1\.(2[1-9]|[3-9][0-9])|[2-9])'; then
  go=$PWD/.tools/go/bin/go
  [[ $("$go" version 2>/dev/null) == *" go$toolchain "* ]] || fetch_go
fi

echo "building $output $version (some minutes on two cores the first time)"
mkdir -p "$(dirname ".tools/$output")"
(
  cd "tools/$module"
  # What a machine sets for its own work does not count, but for where modules come from.
  GOTOOLCHAIN=auto GOFLAGS=-mod=readonly GOWORK=off CGO_ENABLED=0 \
    "$go" build -trimpath -ldflags "-s -w -X main.version=$version" -o "../../.tools/$output" "$package"
)
echo "$pinned" >"$stamp"
