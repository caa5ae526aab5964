#!/usr/bin/env bash
# grpcurl, a gRPC client that is not ours, built from source as tools/grpcurl/go.mod pins it.
set -euo pipefail
cd "$(dirname "$0")/.."

version=$(sed -n 's/.*github.com\/fullstorydev\/grpcurl v\([^ ]*\).*/\1/p' tools/grpcurl/go.mod)
tools/go.sh grpcurl bin/grpcurl "$version" github.com/fullstorydev/grpcurl/cmd/grpcurl
