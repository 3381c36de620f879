#!/bin/sh
# Runs a command with each secret in a file sink_* as the variable SINK_* that the connectors name.
set -eu
for file in "${SECRETS_DIR:-/run/secrets}"/sink_*; do
    [ -f "$file" ] || continue
    export "$(basename "$file" | tr '[:lower:]' '[:upper:]')=$(cat "$file")"
done
# Connect leaves the name of a variable that is not set as it stands, so each has a value: a broker without authentication.
export SINK_KAFKA_PROTOCOL="${SINK_KAFKA_PROTOCOL:-PLAINTEXT}"
export SINK_KAFKA_MECHANISM="${SINK_KAFKA_MECHANISM:-SCRAM-SHA-512}"
export SINK_KAFKA_JAAS="${SINK_KAFKA_JAAS:-}"
export SINK_KAFKA_CA="${SINK_KAFKA_CA:-/etc/ssl/certs/ca-certificates.crt}"
exec "$@"
