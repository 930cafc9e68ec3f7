#!/usr/bin/env bash
# Builds localhost/backhaul-edge and localhost/backhaul-cloud with docker or podman. BASE names another base image.
set -euo pipefail
source "$(dirname "$0")/engine.sh"
choose_engine

published=python:3.13-slim-bookworm
base=${BASE:-}
if [[ -z $base ]]; then
    stand_in=$($engine image ls --format '{{.Repository}}:{{.Tag}}' | grep -m1 '^localhost/python:3' || true)
    if [[ -n $stand_in ]]; then
        base=$stand_in
    elif timeout 60 "$engine" pull --quiet "$published" >/dev/null 2>&1; then
        base=$published
    else
        echo "no image registry is reached: making a stand-in for $published" >&2
        base=$("$here/stand_in_base.sh")
    fi
fi
echo "base image: $base"

# A host whose package traffic is signed by an authority of its own lends its certificates to the build, as volumes:
# nothing of them stays in the image.
options=(--network host --build-arg "BASE=$base")
if [[ $engine == podman ]]; then
    options+=(--pull=never --format docker)
    if [[ -n ${SSL_CERT_FILE:-} ]]; then
        printf '[global]\ncert = /run/host-ca.crt\n' >"$work/pip.conf"
        options+=(-v "$SSL_CERT_FILE:/run/host-ca.crt:ro" -v "$work/pip.conf:/etc/pip.conf:ro")
    fi
fi
for service in edge cloud; do
    "$engine" build "${options[@]}" --tag "localhost/backhaul-$service" \
        --file "$here/$service.Dockerfile" "$project" >"${TMPDIR:-/tmp}/build-$service.log" 2>&1 ||
        { tail -n 40 "${TMPDIR:-/tmp}/build-$service.log" >&2; exit 1; }
done
"$engine" image ls --filter reference='localhost/backhaul-*' --format '{{.Repository}} {{.Size}}'
