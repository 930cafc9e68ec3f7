#!/usr/bin/env bash
# Runs the images as an operator would, in a network of their own, and checks them from outside (test_images.py).
set -euo pipefail
source "$(dirname "$0")/engine.sh"
choose_engine
[[ $engine == podman ]] || cannot_run "the image tests use podman and a network namespace of their own"
[[ $(id -u) == 0 ]] || cannot_run "the image tests need root to make a network namespace"
namespace=backhaul-images-$$
ip netns add "$namespace" || cannot_run "a network namespace cannot be made"
trap 'ip netns del "$namespace"' EXIT
ip -n "$namespace" link set lo up
# Not `ip netns exec`: it mounts another /sys, in which podman finds no cgroups.
NETNS=/run/netns/$namespace nsenter --net="/run/netns/$namespace" "$project/.venv/bin/python" "$here/test_images.py"
