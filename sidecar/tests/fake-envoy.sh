#!/bin/sh
# Stands in for Envoy: writes what happens to `events` beside its configuration, runs until SIGTERM.
# A file `crash` there makes it end at once, one time.
if [ "$1" = "--version" ]; then
  echo "envoy  version: 0123abcd/1.40.0/Clean/RELEASE/BoringSSL"
  exit 0
fi
while [ $# -gt 0 ]; do
  if [ "$1" = "--config-path" ]; then home=$(dirname "$2"); fi
  shift
done
echo "start $$" >> "$home/events"
echo "info|main|fake Envoy is running" >&2
if rm "$home/crash" 2> /dev/null; then
  echo "crash" >> "$home/events"
  echo "critical|main|fake Envoy crashes" >&2
  exit 3
fi
trap 'echo term >> "$home/events"; exit 0' TERM
while :; do
  sleep 60 &
  worker=$!
  trap 'kill $worker; echo term >> "$home/events"; exit 0' TERM
  wait $worker
done
