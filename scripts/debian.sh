# shellcheck shell=bash
# Functions to make Debian systems and work inside them.  Scripts in this directory
# source this file after common.sh.

# The systems are kept here for later runs.
debians=${CHATWEBHOOK_MATRIX:-${XDG_CACHE_HOME:-$HOME/.cache}/chatwebhook/matrix}

# Exit unless root runs the script.
need_root() {
    if [ "$(id -u)" -ne 0 ]; then
        echo "only root can make a Debian system and run commands in it" >&2
        exit 1
    fi
}

# Print the lines of a sources.list for some suites, with the mirrors that apt uses here.
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
            echo "apt has no Debian mirror configured" >&2
            return 1
        fi
    done
}

# make_debian LOG TARGET "SUITE..." "PACKAGE..." [OPTION...]: make a system with
# mmdebstrap, from the suites (the main one first) and with the packages.
make_debian() {
    local log=$1 target=$2 suites packages=$4 lines
    read -r -a suites <<<"$3"
    shift 4
    scripts/install-deps matrix && lines=$(sources "${suites[@]}") || return
    rm -rf "$target" "$target.new"
    mkdir -p "$debians"
    # A mirror may be out of date.  The hook keeps packages from creating or
    # starting a cluster; its own shell expands the variable.
    # shellcheck disable=SC2016
    run_logged "$log" mmdebstrap --mode=root --variant=apt "$@" \
        --aptopt='Acquire::Check-Valid-Until "false"' --dpkgopt=force-unsafe-io \
        --essential-hook='mkdir -p "$1/etc/postgresql-common/createcluster.d" &&
            echo "create_main_cluster = false" \
                >"$1/etc/postgresql-common/createcluster.d/matrix.conf"' \
        --include="${packages// /,}" "${suites[0]}" "$target.new" - <<<"$lines" &&
        mv "$target.new" "$target"
}

# suites_of VERSION: print the suites that have a major version of PostgreSQL, the main
# one first.
suites_of() {
    case $1 in
        15) echo bookworm bookworm-security ;;
        17) echo trixie ;;
        18) echo sid ;;
        19) echo sid experimental ;;
        *) return 1 ;;
    esac
}

# Print the packages to build and test with.  server-dev depends on clang.
packages_of() {
    # otherwise apt would take these from sid
    [ "$1" != 19 ] || echo -n "libpq5/experimental libpq-dev/experimental "
    # it has pg_buildext, which was in postgresql-common before
    [ "$1" = 15 ] || echo -n "postgresql-common-dev "
    echo "postgresql-$1" "postgresql-server-dev-$1" postgresql-common \
        build-essential debhelper pkg-config libcurl4-openssl-dev libssl-dev \
        python3 perl libipc-run-perl openssl ca-certificates nodejs \
        iproute2 procps mount gdb prometheus-postgres-exporter
}

# find_debian VERSION: make the Debian system in $debians/VERSION to build and test with,
# unless it exists and has all packages.  The caller holds the lock.
find_debian() {
    local version=$1 root=$debians/$1 packages start=$SECONDS
    packages=$(packages_of "$version")
    if [ "$(cat "$root/.packages" 2>/dev/null)" = "$packages" ]; then
        return
    fi
    make_debian "debian-$version.log" "$root" "$(suites_of "$version")" "$packages" \
        --dpkgopt='path-exclude=/usr/share/doc/*' \
        --dpkgopt='path-include=/usr/share/doc/*/copyright' \
        --dpkgopt='path-exclude=/usr/share/locale/*' || return
    echo "$packages" >"$root/.packages"
    echo "made a Debian system for PostgreSQL $version ($((SECONDS - start)) s)"
}

# lock_debian NAME: wait until no other run uses this system.  Child processes do not
# hold the lock if they are started with "9>&-".
lock_debian() {
    mkdir -p "$debians" && exec 9>"$debians/$1.lock" && flock 9
}

# clean_debian NAME VERSION [PACKAGE...]: make the archive $debians/NAME.tar, unless it
# exists: a system with PostgreSQL and these packages, but not with those of a build.
clean_debian() {
    local name=$1 version=$2
    shift 2
    [ -e "$debians/$name.tar" ] ||
        make_debian "debian-$name.log" "$debians/$name.tar" "$(suites_of "$version")" \
            "postgresql-$version python3 iproute2 mount $*" --format=tar
}

# unpack_clean MAJOR ROOT: unpack, into ROOT, a clean system in which try-package can try
# a package, which needs libcurl.
unpack_clean() {
    clean_debian "package-$1" "$1" ca-certificates libcurl4 rpm || return
    mkdir "$2" && tar -x --numeric-owner -f "$debians/package-$1.tar" -C "$2" &&
        cp scripts/try-package test/lib/receiver.py "$2/"
}

# in_debian ROOT COMMAND...: run a command with ROOT as /, in namespaces of its own
# for mounts, processes, network, and shared memory, and with an empty environment.
# When the command or the caller ends, everything that it started ends, too.
in_debian() {
    # The inner shell expands these.
    # shellcheck disable=SC2016
    setpriv --pdeathsig KILL \
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
            exec env -i HOME=/root LANG=C.UTF-8 \
                PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
                "$@"' sh "$@"
}
