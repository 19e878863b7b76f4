#!/usr/bin/env bash
# apt_download.sh SUITE PACKAGE=VERSION...: downloads Debian packages into ./debs with a private apt
# configuration; the mirror is the one that the machine's own apt sources name.
set -euo pipefail
suite=$1; shift
mirror=${DEBIAN_MIRROR:-$(sed -n 's/^URIs:[[:space:]]*\([^[:space:]]*\).*/\1/p; s/^deb[[:space:]]\+\(\[[^]]*\][[:space:]]\+\)\?\([^[:space:]]*\).*/\2/p' \
  /etc/apt/sources.list /etc/apt/sources.list.d/*.{list,sources} 2>/dev/null | grep -v -- -security | head -n 1 || true)}
[ -n "$mirror" ] || { echo "no Debian mirror in apt's sources: set DEBIAN_MIRROR" >&2; exit 1; }
apt=$PWD/apt
mkdir -p debs "$apt"/{state/lists/partial,cache/archives/partial}
: > "$apt/status"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" > "$apt/sources.list"
cat > "$apt/apt.conf" <<CONF
Dir::Etc::sourcelist "$apt/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::State "$apt/state";
Dir::State::status "$apt/status";
Dir::Cache "$apt/cache";
APT::Architecture "amd64";
APT::Architectures "amd64";
APT::Sandbox::User "";
Acquire::Languages "none";
Acquire::Retries "3";
Debug::NoLocking "true";
CONF
export APT_CONFIG=$apt/apt.conf
apt-get -qq update
(cd debs && apt-get -qq download "$@")
for package; do
  compgen -G "debs/${package%%=*}_*.deb" > /dev/null || { echo "$package did not come" >&2; exit 1; }
done
rm -rf "$apt"
