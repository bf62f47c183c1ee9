"""Debian's cloud-init, unpacked and not installed: what it makes of a seed, and its command."""

import json
import os
import sys
from pathlib import Path
from typing import Any

from tests.lab.programs import require_program, run, unpack_packages
from tests.lab.workspace import Cache

_READ = """
import json, os, sys
from cloudinit import helpers, util
from cloudinit.distros import ug_util
from cloudinit.sources.DataSourceNoCloud import DataSourceNoCloud

seed, scratch = sys.argv[1:]
os.makedirs(f"{scratch}/seed")
os.symlink(seed, f"{scratch}/seed/nocloud")
source = DataSourceNoCloud({}, None, helpers.Paths({"cloud_dir": scratch, "run_dir": f"{scratch}/run"}))

class Debian:
    def get_default_user(self):
        return {"name": "debian", "shell": "/bin/bash"}

def parts(message):
    return [[part.get_content_type(), part.get_payload(decode=True).decode()]
            for part in message.walk() if not part.is_multipart() and part.get_payload(decode=True)]

is_found = source.get_data()
user_data = parts(source.get_userdata())
config = {"users": ["default"]}
for kind, text in user_data:
    if kind == "text/cloud-config":
        config.update(util.load_yaml(text))
hostname = source.get_hostname()
print(json.dumps({
    "found": is_found,
    "instance_id": source.get_instance_id(),
    "host_name": getattr(hostname, "hostname", hostname),
    "fqdn": getattr(source.get_hostname(fqdn=True), "hostname", source.get_hostname(fqdn=True)),
    "meta_data": source.metadata,
    "user_data": user_data,
    "vendor_data": parts(source.get_vendordata()),
    "network": source.network_config,
    "config": {key: value for key, value in config.items() if key not in {"user", "users"}},
    "users": ug_util.normalize_users_groups(config, Debian())[0],
}))
"""
_COMMAND = "import sys; from cloudinit.cmd.main import main; sys.exit(main())"


def _path(cache: Cache) -> str:
    return str(unpack_packages(cache, ["cloud-init"]) / "usr/lib/python3/dist-packages")


def unpack_seed(iso: Path, directory: Path) -> Path:
    """Unpack a seed with a program that has nothing to do with its making, and return the directory."""
    xorriso = require_program("xorriso", "xorriso")
    run(xorriso, "-indev", iso, "-osirrox", "on", "-extract", "/", directory)
    return directory


def read_seed(cache: Cache, iso: Path, scratch: Path) -> dict[str, Any]:
    """Return what cloud-init's data source NoCloud makes of a seed."""
    seed = unpack_seed(iso, scratch / "seed")
    environment = os.environ | {"PYTHONPATH": _path(cache), "PYTHONWARNINGS": "ignore"}
    said = run(sys.executable, "-c", _READ, seed, scratch / "state", env=environment)
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    return found


def make_command(cache: Cache, directory: Path) -> Path:
    """Make the command `cloud-init` in a directory, and return the directory, which belongs on a PATH."""
    command = directory / "cloud-init"
    command.write_text(
        f"#!/bin/sh\nPYTHONPATH='{_path(cache)}' exec '{sys.executable}' -W ignore -c '{_COMMAND}' \"$@\"\n"
    )
    command.chmod(0o755)
    return directory
