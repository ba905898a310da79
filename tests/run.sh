#!/bin/sh
# Installs what the tests need and runs every check: ruff, mypy, pyright, pytest. Usage: sh tests/run.sh [pytest options]
#
# It makes .venv beside the source if there is none, and installs missing Debian packages where it may. Without them
# the tests that need them are skipped and listed at the end; with CI=true they fail.
set -u
cd "$(dirname "$0")/.." || exit 1

# gearmand and its tools, the clients of the other languages that the tests talk to, what speaks TLS for gearmand, and
# the databases that it keeps queues in. Of these the tests run their own: RUNLEVEL=1 keeps Debian from starting any.
# Valgrind counts instructions; the compiler and libgearman are for the C client of the benchmarks.
packages="gearman-job-server gearman-tools php-cli php-gearman libgearman-client-perl stunnel4 openssl"
packages="$packages mariadb-server postgresql redis-server valgrind gcc libc6-dev libgearman-dev"
python=${PYTHON:-python3}

say() { printf '%s\n' "== $*"; }

# May packages be installed here, and by what command? Sets $install.
may_install() {
    command -v apt-get >/dev/null 2>&1 || return 1
    if [ "$(id -u)" = 0 ]; then install=env
    elif sudo -n true 2>/dev/null; then install="sudo -n env"
    else return 1; fi
}

install_packages() {
    missing=""
    for package in "$@"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    if ! may_install; then
        say "Not installed, and may not be from here:$missing"
        say "Tests that need them are skipped (with CI=true: fail). On Debian, as root: apt-get install$missing"
        return 0
    fi
    say "Installing$missing"
    log=$(mktemp)
    if ! { $install apt-get update && $install RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
        apt-get install -y --no-install-recommends $missing; } >"$log" 2>&1; then
        tail -n 20 "$log"
        say "Installing failed; tests that need these packages are skipped (with CI=true: fail):$missing"
    fi
    rm -f "$log"
}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    say "gtask needs Python 3.11 or newer; name one: PYTHON=python3.11 sh tests/run.sh"
    exit 1
}

# Debian's python3 comes without the module that makes virtual environments.
venv=""
if [ ! -x .venv/bin/python ] && ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then venv=python3-venv; fi
install_packages $packages $venv

if [ ! -x .venv/bin/python ]; then
    say "Making .venv"
    "$python" -m venv .venv || exit 1
fi
say "Installing gtask and the Python packages of its tests"
.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[test]' || exit 1

failed=""
check() {
    name=$1
    shift
    say "$name"
    ".venv/bin/$@" || failed="$failed, $name"
}
check "ruff check" ruff check .
check "ruff format" ruff format --check .
check "mypy" mypy
check "pyright" pyright --pythonpath .venv/bin/python

# Most tests wait for something (all together they compute for a quarter of their time), so there are two processes for
# each core, eight at most. A file's tests stay together: they share servers and workers. PROCESSES=0 does without.
cores=$(nproc 2>/dev/null || echo 2)
processes=${PROCESSES:-$((cores < 4 ? cores * 2 : 8))}
say "pytest, $processes processes beside this one"
.venv/bin/python -m pytest -n "$processes" --dist loadfile --no-loadscope-reorder "$@"
result=$?
# In CI a few failures are tried once more, alone: what passes then depended on the load of the machine. It is named
# as what it is, a fault to be found, and does not keep everything else back.
if [ "$result" = 1 ] && [ "${CI:-}" = true ]; then
    lost=$(.venv/bin/python -c 'import json, pathlib
path = pathlib.Path(".pytest_cache/v/cache/lastfailed")
print(len(json.loads(path.read_text())) if path.exists() else 99)')
    if [ "$lost" -le 5 ]; then
        say "$lost failed; once more, alone. Whatever passes now is flaky: find out why."
        .venv/bin/python -m pytest --last-failed --last-failed-no-failures=none -n 0
        result=$?
    fi
fi
if [ -n "$failed" ]; then
    say "Failed before the tests: ${failed#, } (see above)"
    exit 1
fi
exit $result
