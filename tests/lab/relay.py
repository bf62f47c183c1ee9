"""TCP ports that lead to private daemons of libvirt, and something that happens with a certain message of a program.

For the program, both hosts are remote: it sees none of their files.
"""

import os
import select
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from queue import SimpleQueue
from typing import Self

from tests.lab.hypervisor import Hypervisor

# libvirt's protocol (src/rpc/virnetprotocol.x): a message has its length, a program, a version, a procedure and a type.
KEEPALIVE = int.from_bytes(b"keep")
CALL, REPLY = 0, 1

CHUNK_BYTES = 1 << 16


class Fate(Enum):
    """What happens with the message."""

    CUT = "cut"
    GONE = "gone"
    KILL = "kill"


@dataclass(frozen=True)
class Moment:
    """A message of all that a program sends to all hosts, counted from 1, and what happens then.

    Attributes:
        is_answered: Whether the daemon gets the message first, and answers a call; the program does not hear that.
    """

    number: int
    fate: Fate
    is_answered: bool = False


class Relay:
    """Ports that lead to the daemons of hosts, for a `with` block.

    A link breaks (`CUT`), the host cannot be reached any more until the next `begin` (`GONE`), or the program is killed
    (`KILL`), for which `victims` gets its process.
    """

    def __init__(self, *hosts: Hypervisor) -> None:
        self.victims: SimpleQueue[int] = SimpleQueue()
        # the number of the host and of the procedure
        self.messages: list[tuple[int, int]] = []
        self._hosts = hosts
        self._listeners: list[socket.socket] = []
        self._links: dict[socket.socket, int] = {}
        self._lock = threading.Lock()
        self._moment: Moment | None = None
        self._gone: set[int] = set()

    def __enter__(self) -> Self:
        for number in range(len(self._hosts)):
            listener = socket.create_server(("127.0.0.1", 0))
            self._listeners.append(listener)
            threading.Thread(target=self._accept, args=(listener, number), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for number, listener in enumerate(self._listeners):
            # the thread that accepts ends
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            self._break(number)

    def uri(self, number: int) -> str:
        """Return the URI of the host with this number."""
        return f"qemu+tcp://127.0.0.1:{self._listeners[number].getsockname()[1]}/system"

    def begin(self, moment: Moment | None = None) -> None:
        """Count anew, reach all hosts, and have something happen at a moment."""
        with self._lock:
            self._moment = moment
            self._gone.clear()
            self.messages = []

    def _accept(self, listener: socket.socket, number: int) -> None:
        # it ends when the listener is closed
        with suppress(OSError):
            while True:
                link, _ = listener.accept()
                with self._lock:
                    is_gone = number in self._gone
                    if not is_gone:
                        self._links[link] = number
                if is_gone:
                    link.close()
                else:
                    threading.Thread(target=self._serve, args=(link, number), daemon=True).start()

    def _serve(self, link: socket.socket, number: int) -> None:
        with suppress(OSError), link, socket.socket(socket.AF_UNIX) as daemon:
            daemon.connect(str(self._hosts[number].socket_path))
            buffer = bytearray()
            while True:
                for ready in select.select([link, daemon], [], [])[0]:
                    if not (data := ready.recv(CHUNK_BYTES)):
                        return
                    if ready is daemon:
                        link.sendall(data)
                        continue
                    buffer += data
                    for message in whole(buffer):
                        if (moment := self._moment_of(message, number)) is None:
                            daemon.sendall(message)
                        else:
                            self._let_happen(moment, message, link, daemon)
                            return

    def _moment_of(self, message: bytes, number: int) -> Moment | None:
        if program_of(message) == KEEPALIVE:
            return None
        with self._lock:
            self.messages.append((number, procedure_of(message)))
            moment = self._moment
            return moment if moment is not None and moment.number == len(self.messages) else None

    def _let_happen(self, moment: Moment, message: bytes, link: socket.socket, daemon: socket.socket) -> None:
        if moment.is_answered:
            daemon.sendall(message)
            answer = bytearray()
            while type_of(message) == CALL and not any(
                program_of(part) != KEEPALIVE and type_of(part) == REPLY for part in whole(answer)
            ):
                answer += daemon.recv(CHUNK_BYTES)
        if moment.fate is Fate.KILL:
            os.kill(self.victims.get(), signal.SIGKILL)
        elif moment.fate is Fate.GONE:
            self._break(self._links[link])

    def _break(self, number: int) -> None:
        with self._lock:
            self._gone.add(number)
            for link in [link for link, host in self._links.items() if host == number]:
                del self._links[link]
                # closed by the thread that serves it
                with suppress(OSError):
                    link.shutdown(socket.SHUT_RDWR)


def whole(buffer: bytearray) -> Iterator[bytes]:
    """Take each message from a buffer that has come whole."""
    while len(buffer) >= 4 and len(buffer) >= (length := int.from_bytes(buffer[:4])):
        message = bytes(buffer[:length])
        del buffer[:length]
        yield message


def program_of(message: bytes) -> int:
    """Return the number of a message's program."""
    return int.from_bytes(message[4:8])


def procedure_of(message: bytes) -> int:
    """Return the number of a message's procedure."""
    return int.from_bytes(message[12:16])


def type_of(message: bytes) -> int:
    """Return the type of a message."""
    return int.from_bytes(message[16:20])
