"""Seeds: what cloud-init reads from a disk with the label `cidata` at the first start of a guest.

https://docs.cloud-init.io/en/latest/reference/datasources/nocloud.html
"""

from __future__ import annotations

import json
import os
import re
import stat
from typing import TYPE_CHECKING

from virtomate.errors import UsageError
from virtomate.names import has_unwritable
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LABEL = "cidata"

META_DATA, USER_DATA, NETWORK_CONFIG, VENDOR_DATA = "meta-data", "user-data", "network-config", "vendor-data"
_FILES = (META_DATA, USER_DATA, NETWORK_CONFIG, VENDOR_DATA)
_MAX_FILE_BYTES = 16 << 20

# https://docs.cloud-init.io/en/latest/explanation/format.html; the last three are of cloudbase-init for Windows.
_STARTS = (
    *("#cloud-config", "#include", "#!", "#part-handler", "#cloud-boothook", "## template: jinja", "#upstart-job"),
    *("#ps1", "rem cmd", "<powershell>"),
)
_GZIP = b"\x1f\x8b"
_MIME = b"mime-version:"
_MIME_HEAD_BYTES = 4096
_SCHEMA_SECONDS = 60

# sshd(8), "AUTHORIZED_KEYS FILE FORMAT"
_PUBLIC_KEY = (
    r"(?:^|\s)(?:ssh-(?:rsa|dss|ed25519)|ecdsa-sha2-nistp\d+|sk-[a-z0-9-]+@openssh\.com)\s+AAAA[A-Za-z0-9+/]+=*"
)
_USER = r"[A-Za-z_][A-Za-z0-9_.-]{0,31}"
_ROOT = "root"
_NETWORK_KEY = r"(?m)^\s*[\"'{]?\s*[\"']?(?:network|version)[\"']?\s*:"
_IDENTITY = ("instance-id", "local-hostname")

# RFC 1123, 2.1; what looks like an address is none
_LABEL_OF_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_ADDRESS = r"[\d.]+\.[\d.]+"
_MAX_HOST_NAME = 253


class SeedFiles(NamedTuple):
    """The files of a seed, which are the same for all clones; None leaves a file out.

    Attributes:
        meta_data: Lines to which the identity of a clone is added.
    """

    meta_data: bytes = b""
    user_data: bytes = b""
    network_config: bytes | None = None
    vendor_data: bytes | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the files that say more than who the clone is."""
        content = (self.meta_data, self.user_data, self.network_config, self.vendor_data)
        return tuple(name for name, data in zip(_FILES, content, strict=True) if data)

    def of_clone(self, uuid: str, host_name: str) -> dict[str, bytes]:
        """Return the files of one clone by their names."""
        identity = dict(zip(_IDENTITY, (uuid, host_name), strict=True))
        given = identity_in(self.meta_data)
        begin = self.meta_data if not self.meta_data or self.meta_data.endswith(b"\n") else self.meta_data + b"\n"
        lines = [f"{key}: {json.dumps(value)}\n" for key, value in identity.items() if key not in given]
        files: dict[str, bytes | None] = {
            META_DATA: begin + "".join(lines).encode(),
            USER_DATA: self.user_data,
            NETWORK_CONFIG: self.network_config,
            VENDOR_DATA: self.vendor_data,
        }
        return {name: data for name, data in files.items() if data is not None}


class SeedOptions(NamedTuple):
    """The options that say what is in a seed; paths are those of local files."""

    ssh_keys: Sequence[str] = ()
    user: str | None = None
    user_data: str | None = None
    network_data: str | None = None
    vendor_data: str | None = None
    directory: str | None = None


def check_host_name(name: str, advice: str = "") -> None:
    """Raise UsageError if a name cannot be a host name, by RFC 1123."""
    labels = name.split(".")
    if (
        len(name) > _MAX_HOST_NAME
        or re.fullmatch(_ADDRESS, name)
        or any(re.fullmatch(_LABEL_OF_NAME, label) is None for label in labels)
    ):
        raise UsageError(
            f"'{name}' cannot be a host name: expected are letters, digits and hyphens in parts of at most 63 "
            f"characters with dots between, which neither begin nor end with a hyphen{advice}"
        )


def host_name_of(clone_name: str) -> str:
    """Return a clone's name as its host name, or raise UsageError if the name cannot be one."""
    check_host_name(clone_name, "; --hostname gives the guest another name than the clone has")
    return clone_name


def read_seed(options: SeedOptions) -> SeedFiles:
    """Read the files of a seed, and check them; nothing of their content is in a message.

    Raises:
        UsageError: A file cannot be read, or cloud-init would not understand the file.
    """
    if options.directory is not None:
        return _read_directory(options.directory)
    user_data = b"" if options.user_data is None else _read(options.user_data)
    if options.user_data is not None:
        _check_user_data(options.user_data, user_data)
    elif options.ssh_keys or options.user is not None:
        user_data = _user_data(options.user, [key for word in options.ssh_keys for key in _ssh_keys(word)])
    network = None if options.network_data is None else _read(options.network_data)
    if options.network_data is not None and network is not None:
        _check_network_config(options.network_data, network)
    vendor_data = None if options.vendor_data is None else _read(options.vendor_data)
    if options.vendor_data is not None and vendor_data is not None:
        _check_user_data(options.vendor_data, vendor_data)
    return SeedFiles(b"", user_data, network, vendor_data)


def _read_directory(directory: str) -> SeedFiles:
    try:
        names = sorted(name for name in os.listdir(directory) if not name.startswith("."))
    except (OSError, ValueError) as error:
        raise UsageError(f"--seed-dir: '{directory}' cannot be read: {_reason(error)}") from error
    expected = f"expected: {', '.join(_FILES[:-1])} or {_FILES[-1]}"
    if (unknown := next((name for name in names if name not in _FILES), None)) is not None:
        raise UsageError(f"--seed-dir: '{os.path.join(directory, unknown)}' is not a file of a seed; {expected}")
    if not names:
        raise UsageError(f"--seed-dir: '{directory}' has no file of a seed; {expected}")
    content = {name: _read(os.path.join(directory, name)) for name in names}
    for name in (USER_DATA, VENDOR_DATA):
        if content.get(name):
            _check_user_data(os.path.join(directory, name), content[name])
    if NETWORK_CONFIG in content:
        _check_network_config(os.path.join(directory, NETWORK_CONFIG), content[NETWORK_CONFIG])
    meta_data = content.get(META_DATA, b"")
    _check_meta_data(os.path.join(directory, META_DATA), meta_data)
    return SeedFiles(meta_data, content.get(USER_DATA, b""), content.get(NETWORK_CONFIG), content.get(VENDOR_DATA))


def _read(path: str) -> bytes:
    """Return the content of a file, which may also be a pipe."""
    try:
        with open(path, "rb") as file:
            if stat.S_ISBLK(os.fstat(file.fileno()).st_mode):
                raise UsageError(f"'{path}' is a block device, and not a file for a seed")
            data = file.read(_MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        raise UsageError(f"'{path}' cannot be read: {_reason(error)}") from error
    if len(data) > _MAX_FILE_BYTES:
        raise UsageError(f"'{path}' is too long for a seed: expected are at most {_MAX_FILE_BYTES >> 20} MiB")
    return data


def _reason(error: OSError | ValueError) -> str:
    return os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)


def _check_user_data(path: str, data: bytes) -> None:
    """Raise UsageError for user data or vendor data that cloud-init would ignore."""
    start = data.lstrip().lower()
    is_known = start.startswith(tuple(known.encode() for known in _STARTS)) or data.startswith(_GZIP)
    if not is_known and _MIME not in data[:_MIME_HEAD_BYTES].lower():
        raise UsageError(
            f"cloud-init would ignore '{path}': expected is a first line such as #cloud-config, #!/bin/sh, #include or "
            "## template: jinja, or a MIME message"
        )
    if start.startswith(b"#cloud-config") and start.partition(b"\n")[0].strip() == b"#cloud-config":
        _check_schema(path, data)


def _check_schema(path: str, data: bytes) -> None:
    """Have cloud-init check cloud-config data, where it is installed; it reads a file that has no name."""
    import shutil  # noqa: PLC0415 - few hosts have cloud-init
    import subprocess  # noqa: PLC0415 - as above

    program = shutil.which("cloud-init")
    if program is None:
        return
    descriptor = os.memfd_create("user-data")
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(data)
        words = [program, "schema", "--config-file", f"/proc/self/fd/{descriptor}"]
        run = subprocess.run(  # noqa: S603 - the program is cloud-init
            words,
            pass_fds=[descriptor],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=False,
            timeout=_SCHEMA_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return
    finally:
        os.close(descriptor)
    if run.returncode != 0 and b"Traceback" not in run.stderr:
        raise UsageError(f"cloud-init does not accept '{path}': `cloud-init schema --config-file {path}` says why")


def _check_network_config(path: str, data: bytes) -> None:
    if re.search(_NETWORK_KEY, data.decode(errors="replace")) is None:
        raise UsageError(f"cloud-init would ignore '{path}': expected is a network configuration with a version")


def _check_meta_data(path: str, data: bytes) -> None:
    if data.lstrip().startswith(b"{"):
        raise UsageError(f"'{path}' is JSON, to which no host name can be added: expected are lines such as KEY: VALUE")


def identity_in(meta_data: bytes) -> dict[str, str]:
    """Return which of a clone's identity stands in meta-data: values by their keys."""
    lines = meta_data.decode(errors="replace").splitlines()
    pairs = (line.partition(":") for line in lines if line[:1] not in {" ", "\t", "#"})
    values = {key.strip().strip("\"'"): value.partition(" #")[0].strip().strip("\"'") for key, _, value in pairs}
    return {key: values[key] for key in _IDENTITY if key in values}


def _ssh_keys(word: str) -> list[str]:
    """Return the public keys of an option: the key itself, or a file with a key in each line."""
    if re.search(_PUBLIC_KEY, word):
        lines = [word]
    elif not os.path.lexists(word):
        raise UsageError(f"'{word}' is neither a file nor a public key of SSH, such as 'ssh-ed25519 AAAA... NAME'")
    else:
        text = _read(word).decode(errors="replace")
        if "PRIVATE KEY" in text:
            raise UsageError(f"'{word}' holds a private key: expected is the public key, such as {word}.pub")
        lines = [line.strip() for line in text.splitlines()]
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys or any(re.search(_PUBLIC_KEY, key) is None or has_unwritable(key, "\t") for key in keys):
        raise UsageError(f"'{word}' has no public key of SSH: expected is a line such as ssh-ed25519 AAAA... NAME")
    return keys


def check_user(name: str) -> None:
    """Raise UsageError if no user of a guest can have a name."""
    if re.fullmatch(_USER, name) is None:
        raise UsageError(
            f"'{name}' cannot be the name of a user: expected are at most 32 letters, digits, '.', '_' and '-', with a "
            "letter or '_' first"
        )


def _user_data(user: str | None, keys: list[str]) -> bytes:
    """Return a cloud-config for the default user of the guest, who may get another name."""
    lines = ["#cloud-config"]
    if user is not None:
        lines.append(f"user: {{name: {json.dumps(user)}}}")
    if user == _ROOT:
        lines.append("disable_root: false")
    if keys:
        lines += ["ssh_authorized_keys:", *(f"  - {json.dumps(key)}" for key in keys)]
    return "".join(f"{line}\n" for line in lines).encode()


def seed_image(files: Mapping[str, bytes]) -> bytes:
    """Return an ISO 9660 file system with these files, also for systems that read Joliet or Rock Ridge only."""
    import io  # noqa: PLC0415 - few clones get a seed

    from pycdlib import PyCdlib  # noqa: PLC0415 - as above

    iso = PyCdlib()
    iso.new(interchange_level=3, vol_ident=LABEL, joliet=3, rock_ridge="1.09")
    for name, data in files.items():
        short = name.replace("-", "_").upper()
        iso.add_fp(io.BytesIO(data), len(data), f"/{short}.;1", rr_name=name, joliet_path=f"/{name}")
    image = io.BytesIO()
    iso.write_fp(image)
    iso.close()
    return image.getvalue()
