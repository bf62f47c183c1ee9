#!/bin/sh
# Runs a program in a fresh clone of debian-13: ci-job.sh NUMBER PROGRAM [ARG...]
set -eu
name=ci-$1
shift

clean_up() {
    virsh destroy "$name" >/dev/null 2>&1 || true
    virtomate domain-delete --yes "$name" >/dev/null
}

virtomate domain-clone --mode linked debian-13 "$name"
trap clean_up EXIT
trap 'exit 1' HUP INT TERM
virsh start "$name"
virtomate guest-ping --wait 120 "$name"
virtomate guest-run "$name" "$@"
