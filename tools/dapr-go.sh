#!/usr/bin/env bash
# An app with Dapr's SDK for Go, tools/dapr-go/main.go, built as its go.mod pins the SDK.
set -euo pipefail
cd "$(dirname "$0")/.."

version=$(sed -n 's/.*github.com\/dapr\/go-sdk v\([^ ]*\).*/\1/p' tools/dapr-go/go.mod)
tools/go.sh dapr-go bin/dapr-go "$version" .
