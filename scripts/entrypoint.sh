#!/bin/sh
# The image's entry point: numba reads a cache folder only if it could also write there, so with a read-only file system or
# a foreign uid the kernel compiled at build time is copied to the first folder that takes it. Then the command, as PID 1.
set -eu
if [ ! -w "$NUMBA_CACHE_DIR" ]; then
  for folder in "${TMPDIR:-/tmp}" /dev/shm; do
    copy="$folder/kernel-cache-$(id -u)"
    if mkdir -p -m 700 "$copy" 2>/dev/null && [ -O "$copy" ] && cp -R "$NUMBA_CACHE_DIR/." "$copy" 2>/dev/null; then
      export NUMBA_CACHE_DIR="$copy"
      break
    fi
  done
fi
exec "$@"
