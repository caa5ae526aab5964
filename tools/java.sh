#!/usr/bin/env bash
# Apollo's own clients for Java and what they need, from Maven Central: the files in integration-tests/sdk/apollo/jars.sha256. And a JDK.
set -euo pipefail
cd "$(dirname "$0")/.."

major=$(javac -version 2>&1 | sed -n 's/^javac \([0-9]*\).*/\1/p')
if ((${major:-0} < 11)); then
  if [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
    echo "installing default-jdk-headless"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends default-jdk-headless
  else
    echo "missing: JDK 11 or newer (default-jdk-headless on Debian and Ubuntu)" >&2
    exit 1
  fi
fi

list=integration-tests/sdk/apollo/jars.sha256
if cmp -s "$list" .tools/java/jars.sha256; then exit 0; fi
echo "fetching Apollo's clients for Java"
mkdir -p .tools
scratch=$(mktemp -d .tools/fetch-XXXXXX)
trap 'rm -rf "$scratch"' EXIT
while read -r _ path; do
  printf 'url = "https://repo1.maven.org/maven2/%s"\noutput = "%s/%s"\n' "$path" "$scratch" "$path"
done <"$list" | curl --config - --create-dirs --fail --no-progress-meter --location --retry 3 --parallel
(cd "$scratch" && sha256sum --check --quiet) <"$list"
rm -rf .tools/java
mkdir -p .tools/java
find "$scratch" -name '*.jar' -exec mv -t .tools/java {} +
cp "$list" .tools/java/jars.sha256
