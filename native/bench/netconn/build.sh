#!/bin/sh
# Builds the netconn benchmark: build.sh LWIP_DIR OUT
# LWIP_DIR is an unpacked lwIP source (with src/ in it), OUT the program to write.
# CC and CFLAGS may be set; CFLAGS=-DBENCH_CORE_LOCKING=0 makes lwIP send its API calls as messages.
set -eu

if [ $# -ne 2 ]; then
    echo "usage: build.sh LWIP_DIR OUT" >&2
    exit 2
fi
lwip=$1
out=$2
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
if [ ! -f "$lwip/src/api/api_lib.c" ]; then
    echo "build.sh: $lwip holds no lwIP source (src/api/api_lib.c is missing)" >&2
    exit 1
fi
objects=$(mktemp -d)
trap 'rm -rf "$objects"' EXIT INT TERM

# $1: object name, $2: source; the rest: warnings
compile() {
    object=$objects/$1.o
    source=$2
    shift 2
    # shellcheck disable=SC2086  # CFLAGS is a list
    "${CC:-gcc}" -std=gnu11 -O2 -g -pthread ${CFLAGS:-} "$@" -I "$here/port" \
        -isystem "$lwip/src/include" -c "$source" -o "$object"
}

for source in "$lwip"/src/core/*.c "$lwip"/src/core/ipv4/*.c "$lwip"/src/api/*.c; do
    # lwIP's warnings are not ours to mend.
    compile "lwip_$(basename "$source" .c)" "$source" -w
done
for name in sys_arch netconn_bench; do
    compile "$name" "$here/$name.c" -Wall -Wextra -Werror
done
# shellcheck disable=SC2086
"${CC:-gcc}" -pthread ${CFLAGS:-} "$objects"/*.o -o "$out"
