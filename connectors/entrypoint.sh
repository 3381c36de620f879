#!/bin/sh
# Runs a command with each secret in a file sink_* as the variable SINK_* that the connectors name.
set -eu
for file in "${SECRETS_DIR:-/run/secrets}"/sink_*; do
    [ -f "$file" ] || continue
    export "$(basename "$file" | tr '[:lower:]' '[:upper:]')=$(cat "$file")"
done
exec "$@"
