#!/bin/sh
# Runs a program in a runner that is as fresh as at first: reset-job.sh NUMBER PROGRAM [ARG...]
set -eu
name=runner-$1
shift

trap 'virtomate domain-reset --force "$name" >/dev/null' EXIT
trap 'exit 1' HUP INT TERM
virtomate domain-reset --force --start "$name" >/dev/null
virtomate guest-ping --wait 120 "$name" >/dev/null
virtomate guest-run "$name" "$@"
