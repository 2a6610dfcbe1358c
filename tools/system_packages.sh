#!/bin/sh
# Check the system packages that Python, Qt and a virtual display need on Debian-like Linux.
# As root, install missing ones; else print their names and exit. On other systems, do nothing.
set -eu

[ "$(uname -s)" = Linux ] || exit 0

missing=""
need() { missing="$missing $1"; }
library() { ldconfig -p 2>/dev/null | grep -q "$1" || [ -e "/usr/lib/$(uname -m)-linux-gnu/$1" ]; }

python3 -c "import ensurepip, venv" 2>/dev/null || need python3-venv
library libEGL.so.1 || need libegl1
library libGL.so.1 || need libgl1
library libdbus-1.so.3 || need libdbus-1-3
library libfontconfig.so.1 || need libfontconfig1
library libglib-2.0.so.0 || need libglib2.0-0
library libxkbcommon-x11.so.0 || need libxkbcommon-x11-0
library libxcb-cursor.so.0 || need libxcb-cursor0
library libxcb-icccm.so.4 || need libxcb-icccm4
library libxcb-keysyms.so.1 || need libxcb-keysyms1
library libxcb-shape.so.0 || need libxcb-shape0
# A virtual display: always for the tests, for the demo if there is no display.
command -v xvfb-run >/dev/null 2>&1 || need xvfb
command -v xauth >/dev/null 2>&1 || need xauth

[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "Installing system packages:$missing"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # shellcheck disable=SC2086
    apt-get install -y -qq --no-install-recommends $missing >/dev/null
    exit 0
fi
echo "These system packages are missing:$missing" >&2
echo "Install them, then run make again. On Debian or Ubuntu:" >&2
echo "    sudo apt-get install$missing" >&2
exit 1
