#!/usr/bin/env bash
# Check and test the alert rules with promtool: the one on PATH, else the one of the distribution's package, unpacked into
# a cache folder and not installed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
cache=${XDG_CACHE_HOME:-$HOME/.cache}/backhaul-promtool
tool=$(command -v promtool || true)
if [[ -z $tool && ! -x $cache/usr/bin/promtool ]] && command -v apt-get >/dev/null; then
    mkdir -p "$cache"
    (cd "$cache" && apt-get download --quiet prometheus >/dev/null 2>&1 && dpkg -x prometheus_*.deb . && rm prometheus_*.deb) || true
fi
tool=${tool:-$cache/usr/bin/promtool}
if [[ ! -x $tool ]]; then
    echo "promtool is missing: no promtool on PATH, and apt-get cannot download the package prometheus; rules not tested"
    exit 3
fi
"$tool" check rules alerts.yaml
"$tool" test rules alerts_test.yaml
