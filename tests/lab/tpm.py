"""An emulated TPM 2.0, started on a directory with its state, and a client that seals and unseals with it.

The commands are those of the Trusted Computing Group's "TPM 2.0 Library", part 3, in the byte order of part 1.
"""

import socket
import struct
import subprocess
import tempfile
import time
from pathlib import Path
from typing import NamedTuple, Self

from tests.lab.programs import require_program

START_TIMEOUT_SECONDS = 60.0

_SESSIONS = 0x8002
_CLEAR, _CREATE_PRIMARY, _CREATE, _LOAD, _UNSEAL = 0x126, 0x131, 0x153, 0x157, 0x15E
_RETRY = 0x922
_OWNER, _LOCKOUT = 0x40000001, 0x4000000A
# the empty password
_AUTHORISATION = struct.pack(">IIHBH", 9, 0x40000009, 0, 0, 0)
_NOTHING = struct.pack(">HI", 0, 0)
_SHA256, _AES, _CFB, _NULL, _ECC, _KEYED_HASH, _NIST_P256 = 0x0B, 0x06, 0x43, 0x10, 0x23, 0x08, 0x03
# fixed to this TPM and to its parent, used with a password; the parent's own secret comes from the TPM's seed
_SEALED = 0x52
_STORAGE_KEY = 0x30072


class TpmError(Exception):
    """The TPM refused a command."""


class Sealed(NamedTuple):
    """A secret that one TPM can open."""

    private: bytes
    public: bytes


class Emulator:
    """A TPM for a `with` block, with its state in a directory, which may be empty or missing, or in one file."""

    def __init__(self, state: Path) -> None:
        self._state = state

    def __enter__(self) -> Self:
        program = require_program("swtpm", "swtpm")
        place = f"backend-uri=file://{self._state}"
        if not self._state.is_file():
            self._state.mkdir(parents=True, exist_ok=True)
            place = f"dir={self._state}"
        self._directory = tempfile.TemporaryDirectory(prefix="lab-tpm-")
        path = Path(self._directory.name) / "socket"
        words = ["--tpmstate", place, "--server", f"type=unixio,path={path}", "--terminate"]
        flags = ["--flags", "not-need-init,startup-clear"]
        argv = [program, "socket", "--tpm2", *words, *flags]
        self._process = subprocess.Popen(argv, stderr=subprocess.DEVNULL)
        self._socket = socket.socket(socket.AF_UNIX)
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while self._socket.connect_ex(str(path)) != 0:
            assert time.monotonic() < deadline, "swtpm does not answer"
            if self._process.poll() is not None:
                # the emulator of a domain that was just switched off still holds the lock
                self._process = subprocess.Popen(argv, stderr=subprocess.DEVNULL)
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        # it ends with its only connection
        self._socket.close()
        self._process.wait()
        self._directory.cleanup()

    def seal(self, secret: bytes) -> Sealed:
        """Return a secret that only a TPM with this state can open."""
        public = struct.pack(">HHIHHH", _KEYED_HASH, _SHA256, _SEALED, 0, _NULL, 0)
        answer = self._send(
            _CREATE, [self._primary()], _sized(_sized(b"") + _sized(secret)) + _sized(public) + _NOTHING
        )
        private, rest = _cut(answer[4:])
        return Sealed(private, _cut(rest)[0])

    def unseal(self, sealed: Sealed) -> bytes:
        """Return a secret; raise TpmError if another TPM has sealed the secret."""
        loaded = self._send(_LOAD, [self._primary()], _sized(sealed.private) + _sized(sealed.public))
        answer = self._send(_UNSEAL, [struct.unpack_from(">I", loaded)[0]], b"")
        return _cut(answer[4:])[0]

    def clear(self) -> None:
        """Forget all secrets of the owner, so that nothing that was sealed before can be opened."""
        self._send(_CLEAR, [_LOCKOUT], b"")

    def _primary(self) -> int:
        """Make the storage key that follows from the seed of the owner's hierarchy, and return its handle."""
        scheme = struct.pack(">HHHHHHHH", _AES, 128, _CFB, _NULL, _NIST_P256, _NULL, 0, 0)
        public = struct.pack(">HHIH", _ECC, _SHA256, _STORAGE_KEY, 0) + scheme
        answer = self._send(_CREATE_PRIMARY, [_OWNER], _sized(_sized(b"") + _sized(b"")) + _sized(public) + _NOTHING)
        return int(struct.unpack_from(">I", answer)[0])

    def _send(self, command: int, handles: list[int], parameters: bytes) -> bytes:
        body = b"".join(struct.pack(">I", handle) for handle in handles) + _AUTHORISATION + parameters
        code = _RETRY
        # it asks for that while it has tests of itself to do
        while code == _RETRY:
            self._socket.sendall(struct.pack(">HII", _SESSIONS, 10 + len(body), command) + body)
            _, size, code = struct.unpack(">HII", self._receive(10))
            answer = self._receive(size - 10)
        if code:
            raise TpmError(f"command {command:#x} failed with {code:#x}")
        return answer

    def _receive(self, size: int) -> bytes:
        found = b""
        while len(found) < size:
            piece = self._socket.recv(size - len(found))
            assert piece, "swtpm has closed the connection"
            found += piece
        return found


def _sized(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


def _cut(data: bytes) -> tuple[bytes, bytes]:
    """Return the first sized part and the rest."""
    (size,) = struct.unpack_from(">H", data)
    return data[2 : 2 + size], data[2 + size :]
