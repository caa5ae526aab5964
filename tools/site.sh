#!/usr/bin/env bash
# The documentation as a site with search, in target/site/book.
set -euo pipefail
cd "$(dirname "$0")/.."

site=target/site
rm -rf "$site"
mkdir -p "$site/src"
# The pages lie as they do here among the other files, to which their links lead, so that no link need be changed.
git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents --target-directory "$site/src"
mv "$site/src/docs/book.toml" "$site/book.toml"
# The order of pages is seen from the root instead of from docs/. Its last line is that of the decisions, which follow in their order.
{
  cat docs/SUMMARY.md
  for decision in docs/decisions/[0-9]*.md; do
    echo "  - [$(sed -n 's/^# *//p' "$decision" | head -1)](decisions/$(basename "$decision"))"
  done
} | sed -e 's|](\.\./|](|; t' -e 's|](|](docs/|' >"$site/src/SUMMARY.md"
rm "$site/src/docs/SUMMARY.md"
.tools/bin/mdbook build "$site"
# mdBook leaves as they are links to pages that SUMMARY.md does not have: there is no such page in the site.
if grep -rnoE --include='*.html' 'href="[^":]*\.md[#"]' "$site/book"; then
  echo "docs/SUMMARY.md lacks the pages above" >&2
  exit 1
fi
echo "target/site/book/index.html is the first page; any web server will do, for instance: python3 -m http.server -d target/site/book"
