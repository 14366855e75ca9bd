# shellcheck shell=bash
# Debians of their own to work in, for the scripts beside this file that source
# it after common.sh.

# The lines of a sources.list for some suites, by the mirrors that apt uses here.
sources() {
    local suite label uri
    for suite in "$@"; do
        label=Debian
        [ "$suite" = "${suite%-security}" ] || label=Debian-Security
        # apt expands this.
        # shellcheck disable=SC2016
        uri=$(apt-get indextargets --format '$(REPO_URI)' \
            'Identifier: Packages' "Label: $label" | head -n 1)
        if [ -n "$uri" ]; then
            echo "deb $uri $suite main"
        elif [ "$label" = Debian ]; then
            echo "apt knows no mirror of Debian here" >&2
            return 1
        fi
    done
}

# in_debian ROOT COMMAND...: run it with ROOT as / and nothing else of this
# machine, not its processes, network or shared memory.  The mounts are the
# namespace's own, and its end is the end of all that runs in it.
in_debian() {
    # The inner shell expands these.
    # shellcheck disable=SC2016
    unshare --mount --pid --net --ipc --uts --fork --kill-child \
        --propagation private sh -euc '
            mount --bind "$1" "$1"
            cd "$1"
            mount -t proc proc proc
            mount -t sysfs sysfs sys
            mount -t tmpfs -o mode=1777 tmpfs dev/shm
            mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
            hostname localhost
            ip link set lo up
            pivot_root . .
            umount -l .
            cd /
            shift
            exec "$@"' sh "$@"
}
