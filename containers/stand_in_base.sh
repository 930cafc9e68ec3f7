#!/usr/bin/env bash
# Makes an image under the name of the base image from Debian's packages and a CPython of this host, for machines that
# reach no image registry. It is not the published image: it shows that our Dockerfiles build and behave, no more.
# Needs root, podman and debootstrap. PYTHON names the interpreter (default: the one of .venv).
set -euo pipefail
source "$(dirname "$0")/engine.sh"
choose_engine
[[ $engine == podman ]] || cannot_run "the stand-in base image is made with podman"
[[ $(id -u) == 0 ]] || cannot_run "the stand-in base image needs root for debootstrap"
command -v debootstrap >/dev/null || cannot_run "debootstrap is missing (Debian: apt-get install debootstrap)"

python=$("${PYTHON:-$project/.venv/bin/python}" -c 'import os, sys; print(os.path.realpath(sys._base_executable))')
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
prefix=$("$python" -c 'import sys; print(sys.base_prefix)')
sources=/etc/apt/sources.list.d/debian.sources
[[ -r $sources ]] || cannot_run "$sources is missing: no package mirror is known"
suite=bookworm

root=$work/root
rm -rf "$root"
debootstrap --variant=minbase "$suite" "$root" "$(awk '/^URIs:/ { print $2; exit }' "$sources")" >"$work/debootstrap.log"
chroot "$root" apt-get clean
rm -rf "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,man,locale,info}/* "$root"/etc/apt/sources.list
sed '/^#/d' "$sources" >"$root/etc/apt/sources.list.d/debian.sources"
tar -C "$root" --numeric-owner --exclude=./etc/resolv.conf --exclude=./etc/hostname --exclude='./dev/*' -cf "$work/base.tar" .
podman import --quiet --change 'CMD ["bash"]' "$work/base.tar" "localhost/debian:$suite-slim" >/dev/null
rm -rf "$root" "$work/base.tar"

mkdir -p "$work/python"
tar -C "$prefix" --numeric-owner --owner=0 --group=0 --exclude='*/test' --exclude='*/tests' --exclude='*/idlelib' \
    --exclude='*/tkinter' --exclude='*/__pycache__' --exclude="*/config-$version-*" --exclude='lib/*.a' \
    --exclude="lib/python$version/site-packages/*" --exclude='bin/pip*' --exclude='bin/idle*' --exclude='bin/2to3*' \
    -cf "$work/python/python.tar" bin include lib
cat >"$work/python/Dockerfile" <<'DOCKERFILE'
ARG SUITE
FROM localhost/debian:${SUITE}-slim
ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates netbase tzdata libssl3 libsqlite3-0 \
    libffi8 libbz2-1.0 liblzma5 libreadline8 libncursesw6 libuuid1 libnsl2 libtirpc3 && rm -rf /var/lib/apt/lists/*
ADD python.tar /usr/local/
RUN ldconfig && python3 -m ensurepip --default-pip && python3 -c 'import ctypes, lzma, ssl, sqlite3, uuid, zlib'
CMD ["python3"]
DOCKERFILE
podman build --quiet --pull=never --squash --network host --build-arg "SUITE=$suite" \
    --tag "localhost/python:$version-slim-$suite" "$work/python" >/dev/null
rm -rf "$work/python"
echo "localhost/python:$version-slim-$suite"
