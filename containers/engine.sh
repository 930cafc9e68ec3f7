# Sourced by build.sh and test.sh: which engine there is, and settings under which podman runs where systemd does not.
#
# Everything podman stores goes to WORK (default: .containers beside the Makefile), so removing that folder removes it.
# Both build without a registry too: then `stand_in_base.sh` makes the base image from the host's own Python.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
project=$(dirname "$here")
work=${WORK:-$project/.containers}

cannot_run() {
    echo "containers cannot run here: $1" >&2
    exit "${CANNOT_RUN_STATUS:-1}"
}

choose_engine() {
    engine=${ENGINE:-}
    if [[ -z $engine ]]; then
        if command -v docker >/dev/null && docker info >/dev/null 2>&1; then
            engine=docker
        elif command -v podman >/dev/null; then
            engine=podman
        else
            cannot_run "neither a running docker nor podman was found (Debian: apt-get install podman runc debootstrap)"
        fi
    fi
    [[ $engine == podman ]] && configure_podman
    return 0
}

configure_podman() {
    mkdir -p "$work/tmp"
    export TMPDIR=$work/tmp
    printf '[storage]\ndriver = "overlay"\ngraphroot = "%s/storage"\nrunroot = "%s/run"\n' "$work" "$work" >"$work/storage.conf"
    # Limits below the usual hard ones, no bridge on the host, and a runtime that takes mixed cgroup layouts.
    cat >"$work/containers.conf" <<CONF
[containers]
default_ulimits = ["nofile=16384:16384", "nproc=32768:32768"]
netns = "none"
base_hosts_file = "none"
log_driver = "k8s-file"
[engine]
$(command -v runc >/dev/null && echo 'runtime = "runc"')
cgroup_manager = "cgroupfs"
events_logger = "file"
CONF
    export CONTAINERS_STORAGE_CONF=$work/storage.conf CONTAINERS_CONF=$work/containers.conf
}
