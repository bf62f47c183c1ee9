"""The reason why a connection cannot be made, and what helps.

libvirt's error codes, and the errno of a failed system call, tell most causes apart. Only the message tells the rest,
such as an unresolved name and all errors of ssh. The message is English, since Python sets no locale for messages, and
ssh has no translations.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import libvirt

from virtomate.tuples import NamedTuple
from virtomate.words import shell_word

if TYPE_CHECKING:
    from collections.abc import Iterator

# The drivers of libvirt (https://libvirt.org/drivers.html).
_DRIVERS = (
    *("qemu", "xen", "lxc", "ch", "bhyve", "vbox", "vz", "openvz", "test"),
    *("esx", "vpx", "gsx", "hyperv", "vmwareplayer", "vmwarews", "vmwarefusion"),
)

_UNRESOLVED = ("resolve address", "lookup for host")
_URI_ERRORS = {
    libvirt.VIR_ERR_NO_CONNECT,
    libvirt.VIR_ERR_INVALID_ARG,
    libvirt.VIR_ERR_CONFIG_UNSUPPORTED,
    libvirt.VIR_ERR_CONF_SYNTAX,
}
_AUTH_ERRORS = {libvirt.VIR_ERR_AUTH_FAILED, libvirt.VIR_ERR_AUTH_CANCELLED, libvirt.VIR_ERR_AUTH_UNAVAILABLE}
_UNREACHABLE = {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ETIMEDOUT, errno.EHOSTDOWN}

_EXAMPLES = "such as qemu:///system or qemu+ssh://root@HOST/system"
_RESOLVE = "Check how the host's name is spelled, and that it can be resolved."
_UNREACHED = "Check that the host is up, and that neither the network nor a firewall is in the way."
_CERTIFICATES = (
    "TLS needs certificates on both sides (https://libvirt.org/kbase/tlscerts.html); SSH does as well: "
    "qemu+ssh://root@HOST/system"
)
_GROUP = "a member of the group libvirt, or root"

_NO_SSH = "Check that ssh is installed here."

# Messages of ssh or of the program that ssh runs on the host, and what helps; the first match counts.
_SSH = (
    ("could not resolve hostname", _RESOLVE),
    ("host key", "Compare the host's key with the one that is known, or get to know it: {ssh}"),
    ("host identification", "Compare the host's key with the one that is known, or get to know it: {ssh}"),
    ("too many authentication failures", "Name the right key in ssh's configuration; this has to work: {ssh}"),
    ("permission denied (", "Give ssh a key or a password that the host accepts; this has to work: {ssh}"),
    ("connection timed out", _UNREACHED),
    ("no route to host", _UNREACHED),
    ("network is unreachable", _UNREACHED),
    ("connection refused", "No SSH server answers there: check that it runs, and on which port."),
    ("cannot execute binary", _NO_SSH),
    ("not found", "The host needs virt-ssh-helper, which comes with libvirt, or an nc that knows -U."),
    ("permission denied", f"Who comes in by SSH may not use libvirt there: it takes {_GROUP}."),
    ("no such file", "Check that libvirtd or virtqemud runs on the host."),
    ("connection closed", "The host ended the link: this has to work: {ssh}"),
    ("", "Check that this works: {ssh}"),
)


def advise_on_silence(uri: str | None) -> str:
    """Return what helps when a host does not answer."""
    _, _, rest = (uri or "").partition("://")
    if rest and not rest.startswith("/"):
        return _UNREACHED
    return "The daemon is there, but does not react: look at its log, or start it anew."


class Failure(NamedTuple):
    """A connection that libvirt could not make.

    Attributes:
        uri: The requested URI; None where libvirt was to decide.
        domain: The part of libvirt that raised the error.
        errno: Error number of a failed system call, else -1.
        is_chosen: Whether an option, -c or --to, named the URI.
    """

    uri: str | None
    code: int
    domain: int
    errno: int
    message: str
    is_chosen: bool = True

    @property
    def advice(self) -> str:
        """What helps, as a sentence."""
        return next(self._find())

    @property
    def _driver(self) -> str:
        return (self.uri or "").partition("://")[0].partition("+")[0]

    @property
    def _transport(self) -> str:
        """`unix`, `ssh`, `tcp`, `tls` and so on; `unix` where libvirt was to decide, or has an alias."""
        scheme, _, rest = (self.uri or "").partition("://")
        return scheme.partition("+")[2] or ("tls" if rest and not rest.startswith("/") else "unix")

    def _find(self) -> Iterator[str]:
        said, transport = self.message.lower(), self._transport
        number = self.errno if self.code == libvirt.VIR_ERR_SYSTEM_ERROR else -1
        if self._is_uri_at_fault():
            yield self._correct_uri()
        if self.code in _AUTH_ERRORS:
            yield self._authenticate()
        if transport == "ssh" and self._lacks_ssh():
            # whether libvirt sees that the program cannot be executed, or only that its pipe or socket is closed,
            # depends on which of the two is faster
            yield _NO_SSH
        if "ssh" in transport or "ssh: " in said:
            yield next(advice for part, advice in _SSH if part in said).format(ssh=self._ssh_command())
        if any(part in said for part in _UNRESOLVED):
            yield _RESOLVE
        if "certificate" in said:
            yield _CERTIFICATES
        if number in _UNREACHABLE:
            yield _UNREACHED
        if transport in {"tcp", "tls"}:
            yield self._listen()
        if number in {errno.EACCES, errno.EPERM}:
            yield f"Use it as {_GROUP}. A group takes effect with the next login."
        daemon = "libvirtd or virtqemud" if number in {errno.ENOENT, errno.ECONNREFUSED} else "the daemon"
        option = "" if self.is_chosen else " with -c"
        yield f"Check that {daemon} runs, or name another connection{option}, {_EXAMPLES}."

    def _listen(self) -> str:
        if self.errno == errno.ECONNREFUSED:
            unit = f"libvirtd-{self._transport}.socket"
            return f"Nothing listens at that port: check that libvirt does ({unit} on the host), or go by SSH."
        return "Check that it is libvirt that listens at that port, and that it does so with this transport."

    def _is_uri_at_fault(self) -> bool:
        is_unparsed = self.code == libvirt.VIR_ERR_INTERNAL_ERROR and (
            self.domain == libvirt.VIR_FROM_URI or "URI path" in self.message
        )
        has_unknown_driver = bool(self._driver) and "://" in (self.uri or "") and self._driver not in _DRIVERS
        return self.code in _URI_ERRORS or is_unparsed or has_unknown_driver

    def _correct_uri(self) -> str:
        import difflib  # noqa: PLC0415 - few connections are wrong

        meant = difflib.get_close_matches(self._driver, _DRIVERS, n=1)
        if self._driver and self._driver not in _DRIVERS and meant:
            return f"Did you mean {meant[0]}{(self.uri or '').removeprefix(self._driver)}?"
        return (
            f"Name a connection by a URI, {_EXAMPLES}, or by an alias from libvirt.conf (https://libvirt.org/uri.html)."
        )

    def _authenticate(self) -> str:
        if self._transport == "unix":
            return f"Use it as {_GROUP}, or have polkit let you in."
        if "ssh" in self._transport:
            return f"Give SSH a key or a password that the host accepts; this has to work: {self._ssh_command()}"
        return "Check user name and password; on the host, saslpasswd2 -a libvirt NAME makes a user."

    def _lacks_ssh(self) -> bool:
        import shutil  # noqa: PLC0415 - few connections are wrong
        from urllib.parse import parse_qs, urlsplit  # noqa: PLC0415 - likewise

        (program,) = parse_qs(urlsplit(self.uri or "").query).get("command", ["ssh"])[:1]
        return shutil.which(program) is None

    def _ssh_command(self) -> str:
        from urllib.parse import urlsplit  # noqa: PLC0415 - few connections are wrong

        parts = urlsplit(self.uri or "")
        host = parts.hostname or "HOST"
        port = ["-p", str(parts.port)] if parts.port else []
        return " ".join(map(shell_word, ["ssh", *port, f"{parts.username}@{host}" if parts.username else host, "true"]))
