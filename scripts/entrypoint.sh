#!/bin/sh
# The image's entry point. With a read-only file system or a foreign uid there may be no /tmp to write to: then /dev/shm is
# named instead, which containers have. numba reads a cache folder only if it could also write there, so the kernel compiled
# at build time is copied to where that is so. Then the command, as PID 1.
set -eu
for folder in "${TMPDIR:-/tmp}" /dev/shm; do
  if [ -w "$folder" ]; then
    export TMPDIR="$folder"
    break
  fi
done
copy="${TMPDIR:-/tmp}/kernel-cache-$(id -u)"
if [ ! -w "$NUMBA_CACHE_DIR" ] && mkdir -p -m 700 "$copy" 2>/dev/null && [ -O "$copy" ]; then
  cp -R "$NUMBA_CACHE_DIR/." "$copy"
  export NUMBA_CACHE_DIR="$copy"
fi
exec "$@"
