#!/usr/bin/env bash
# Apollo's own clients for Java and what they need, by Maven: integration-tests/sdk/apollo/pom.xml names them, and jars.sha256 beside it has
# the hash of every file. And a JDK and Maven themselves, where they are missing.
set -euo pipefail
cd "$(dirname "$0")/.."

missing=()
major=$(javac -version 2>&1 | sed -n 's/^javac \([0-9]*\).*/\1/p')
((${major:-0} >= 11)) || missing+=(default-jdk-headless)
folder=integration-tests/sdk/apollo
fetched=0
cmp -s $folder/jars.sha256 .tools/java/jars.sha256 && fetched=1
((fetched)) || command -v mvn >/dev/null || missing+=(maven)
if ((${#missing[@]} > 0)); then
  if [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
    echo "installing ${missing[*]}"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
  else
    echo "missing: ${missing[*]} (names of Debian's packages: a JDK of 11 or newer, and Maven)" >&2
    exit 1
  fi
fi
if ((fetched)); then echo "Apollo's clients for Java: there"; exit 0; fi

echo "fetching Apollo's clients for Java"
mkdir -p .tools
scratch=$(mktemp -d "$PWD/.tools/fetch-XXXXXX")
trap 'rm -rf "$scratch"' EXIT
mvn --quiet --batch-mode --file $folder/pom.xml \
  org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies -DincludeScope=runtime "-DoutputDirectory=$scratch/jars"
list=$PWD/$folder/jars.sha256
(cd "$scratch/jars" && sha256sum --check --quiet "$list" && [[ $(ls | wc -l) == $(wc -l <"$list") ]]) || {
  echo "what Maven fetched is not what $folder/jars.sha256 names" >&2
  exit 1
}
rm -rf .tools/java
mv "$scratch/jars" .tools/java
cp "$list" .tools/java/jars.sha256
