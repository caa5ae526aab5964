#!/usr/bin/env bash
# Builds what dist/ has once more, in a clone in another folder, and says whether the checksums are the same. tools/dist-twice.sh ARCHITECTURE...
set -euo pipefail
cd "$(dirname "$0")/.."

[[ -z $(git status --porcelain) ]] || { echo "there are changes that are not in the commit, which is what a clone has" >&2; exit 1; }
again=$(mktemp -d)
trap 'rm -rf "$again"' EXIT
git clone --quiet . "$again/elsewhere"
git -C "$again/elsewhere" checkout --quiet "$(git rev-parse HEAD)"
ln -s "$PWD/.tools" "$again/elsewhere/.tools"
"$again/elsewhere/tools/dist.sh" "$@" >"$again/log" 2>&1 || { tail -40 "$again/log" >&2; exit 1; }
diff dist/SHA256SUMS "$again/elsewhere/dist/SHA256SUMS"
echo "the same $(wc -l <dist/SHA256SUMS) files in both folders"
