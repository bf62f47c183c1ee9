"""Domain definitions to clone: each function returns XML text, or a part of it for `devices`."""

import uuid
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from tests.lab.guest_image import CMDLINE, GuestImage

OUI_QEMU = "52:54:00"
OUI_OTHER = "00:16:3e"

OVMF_CODE = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
OVMF_TEMPLATE = Path("/usr/share/OVMF/OVMF_VARS_4M.fd")

VNC_PASSWORD = "hunter2"

AGENT_CHANNEL = """
    <channel type='unix'>
      <target type='virtio' name='org.qemu.guest_agent.0'/>
    </channel>"""

SERIAL_CONSOLE = """
    <serial type='pty'><target port='0'/></serial>
    <console type='pty'><target type='serial' port='0'/></console>"""


def disk(
    source: Path | str | tuple[str, str] | None,
    format_: str | None = "qcow2",
    target: str = "vda",
    *,
    bus: str = "virtio",
    device: str = "disk",
    read_only: bool = False,
    shareable: bool = False,
    serial: str | None = None,
    boot_order: int | None = None,
    driver: str = "",
    extra: str = "",
) -> str:
    """Describe a disk.

    Args:
        source: a path, of a device in /dev or of a file; a pool's name and a volume's; or None for an empty drive.
        format_: the driver's type; None leaves it out.
        target: the device's name.
        bus: its bus.
        device: disk, cdrom, floppy or lun.
        read_only: whether it is marked read-only.
        shareable: whether it is marked shareable.
        serial: its serial number; blanks count.
        boot_order: its place in the boot order.
        driver: further attributes of the driver.
        extra: further elements.
    """
    kind = "volume" if isinstance(source, tuple) else "file"
    if not isinstance(source, tuple) and str(source).startswith("/dev/"):
        kind = "block"
    parts = [f"<driver name='qemu'{'' if format_ is None else f' type={quoteattr(format_)}'} {driver}/>"]
    if isinstance(source, tuple):
        parts.append(f"<source pool={quoteattr(source[0])} volume={quoteattr(source[1])}/>")
    elif source is not None:
        parts.append(f"<source {'dev' if kind == 'block' else 'file'}={quoteattr(str(source))}/>")
    parts.append(f"<target dev={quoteattr(target)} bus={quoteattr(bus)}/>")
    if read_only:
        parts.append("<readonly/>")
    if shareable:
        parts.append("<shareable/>")
    if serial is not None:
        parts.append(f"<serial>{escape(serial)}</serial>")
    if boot_order is not None:
        parts.append(f"<boot order='{boot_order}'/>")
    return f"\n    <disk type='{kind}' device={quoteattr(device)}>{''.join(parts)}{extra}</disk>"


def interface(
    mac: str | None = None, *, type_: str = "user", source: str | None = None, model: str = "virtio", extra: str = ""
) -> str:
    """Describe a network interface; without a MAC address libvirt chooses one.

    Args:
        mac: its MAC address; see `mac_address`.
        type_: user, network, bridge, ethernet and so on.
        source: the network's or bridge's name, for these types.
        model: the device.
        extra: further elements.
    """
    parts = [] if mac is None else [f"<mac address={quoteattr(mac)}/>"]
    if source is not None:
        parts.append(f"<source {type_}={quoteattr(source)}/>")
    parts.append(f"<model type={quoteattr(model)}/>")
    return f"\n    <interface type={quoteattr(type_)}>{''.join(parts)}{extra}</interface>"


def mac_address(number: int, oui: str = OUI_QEMU) -> str:
    """Return the MAC address of this number (0 to 2**24 - 1) below an OUI."""
    return ":".join([oui, *(f"{number >> shift & 0xFF:02x}" for shift in (16, 8, 0))])


def vnc(port: int | None = None, *, password: str | None = None, websocket: int | None = None, socket: str = "") -> str:
    """Describe a VNC display: with a fixed port, or on an automatic one, or on a unix socket."""
    if socket:
        return f"\n    <graphics type='vnc' socket={quoteattr(socket)}/>"
    words = "autoport='yes'" if port is None else f"port='{port}' autoport='no'"
    if websocket is not None:
        words += f" websocket='{websocket}'"
    if password is not None:
        words += f" passwd={quoteattr(password)}"
    return f"\n    <graphics type='vnc' {words} listen='127.0.0.1'/>"


def spice(port: int | None = None, *, password: str | None = None, tls_port: int | None = None) -> str:
    """Describe a SPICE display with fixed ports or automatic ones; the lab's libvirt refuses one with TLS."""
    words = "autoport='yes'" if port is None else f"port='{port}' autoport='no'"
    if tls_port is not None:
        words += f" tlsPort='{tls_port}'"
    if password is not None:
        words += f" passwd={quoteattr(password)}"
    return f"\n    <graphics type='spice' {words} listen='127.0.0.1'/>"


def nvram(
    path: Path | str | None, *, element: bool = False, format_: str | None = None, template: Path | None = OVMF_TEMPLATE
) -> str:
    """Describe OVMF and a variable store, for `domain(firmware=…)`.

    Args:
        path: the variable store; None leaves the place to libvirt.
        element: write it as `<source file=…/>`, libvirt's newer spelling, and not as the element's text.
        format_: its format, where it is said. libvirt 9.0 does not know the attribute.
        template: what it is made from when it does not exist; None leaves it out.
    """
    code = f"<loader readonly='yes' type='pflash'>{OVMF_CODE}</loader>"
    words = "" if template is None else f" template={quoteattr(str(template))}"
    if format_ is not None:
        words += f" format={quoteattr(format_)}"
    if path is None:
        return f"{code}<nvram{words}/>"
    if element:
        return f"{code}<nvram{words} type='file'><source file={quoteattr(str(path))}/></nvram>"
    return f"{code}<nvram{words}>{escape(str(path))}</nvram>"


def domain(
    name: str,
    *,
    disks: Sequence[str] = (),
    interfaces: Sequence[str] = (),
    devices: str = "",
    guest: GuestImage | None = None,
    cmdline: str = "",
    firmware: str | None = None,
    uuid_: str | None = None,
    smbios: bool = False,
    agent: bool = False,
    metadata: str = "",
    description: str | None = None,
    memory_mib: int = 192,
    machine: str = "q35",
    extra: str = "",
) -> str:
    """Define a domain that can be started: with the lab's guest, from its own disk, or with nothing to run.

    Args:
        name: its name.
        disks: what `disk` returns.
        interfaces: what `interface` returns.
        devices: further devices.
        guest: boot this kernel directly; otherwise the firmware boots a disk.
        cmdline: added to the guest's command line (`lab.dhcp` has it ask for an address,
            `lab.client-id=HEX` under another client ID than its MAC address).
        firmware: what `nvram` returns, or "auto" to let libvirt select UEFI firmware; without it there is BIOS.
        uuid_: its UUID; libvirt chooses one otherwise.
        smbios: give the guest's SMBIOS tables a system UUID (which must equal the domain's) and a serial number.
        agent: add the guest agent's channel.
        metadata: elements with namespaces of their own.
        description: its description.
        memory_mib: its memory; UEFI needs 256.
        machine: q35 or pc.
        extra: further elements beside `<devices>`.
    """
    chosen = uuid_ or str(uuid.uuid4())
    parts = [f"<name>{escape(name)}</name>", f"<uuid>{chosen}</uuid>"]
    if description is not None:
        parts.append(f"<description>{escape(description)}</description>")
    if metadata:
        parts.append(f"<metadata>{metadata}</metadata>")
    parts += [f"<memory unit='MiB'>{memory_mib}</memory>", "<vcpu>1</vcpu>"]
    if smbios:
        entry = f"<entry name='uuid'>{chosen}</entry><entry name='serial'>LAB-1</entry>"
        parts.append(f"<sysinfo type='smbios'><system>{entry}</system></sysinfo>")
    parts.append(_os(guest, cmdline, firmware, machine, smbios=smbios))
    parts.append("<features><acpi/><apic/></features>")
    parts.append("<on_reboot>destroy</on_reboot>")
    channel = AGENT_CHANNEL if agent else ""
    # No memory balloon, no USB controller: what is not there need not be started.
    lean = "\n    <controller type='usb' model='none'/>\n    <memballoon model='none'/>"
    if "type='usb'" in devices or "bus='usb'" in devices:
        lean = ""
    body = "".join([*disks, *interfaces, SERIAL_CONSOLE, channel, devices, lean])
    parts.append(f"<devices>{body}\n  </devices>")
    inner = "\n  ".join(parts)
    return f"<domain type='qemu'>\n  {inner}\n  {extra}\n</domain>\n"


def _os(guest: GuestImage | None, cmdline: str, firmware: str | None, machine: str, *, smbios: bool) -> str:
    opening = "<os>"
    parts = [f"<type arch='x86_64' machine='{machine}'>hvm</type>"]
    if firmware == "auto":
        opening = "<os firmware='efi'>"
        # Firmware that boots what nobody signed.
        features = [f"<feature enabled='no' name='{name}'/>" for name in ("enrolled-keys", "secure-boot")]
        parts.append(f"<firmware>{''.join(features)}</firmware>")
    elif firmware is not None:
        parts.append(firmware)
    if guest is not None:
        words = f"{CMDLINE} {cmdline}".strip()
        parts.append(f"<kernel>{guest.kernel}</kernel><initrd>{guest.initrd}</initrd>")
        parts.append(f"<cmdline>{escape(words)}</cmdline>")
    if smbios:
        parts.append("<smbios mode='sysinfo'/>")
    return f"{opening}{''.join(parts)}</os>"


FOREIGN_METADATA = """
    <libosinfo:libosinfo xmlns:libosinfo="http://libosinfo.org/xmlns/libvirt/domain/1.0">
      <libosinfo:os id="http://debian.org/debian/12"/>
    </libosinfo:libosinfo>
    <lab:notes xmlns:lab="https://lab.example/notes/1"><!-- kept -->first<lab:b/>second<![CDATA[<&>]]></lab:notes>"""

RICH_DEVICES = """
    <controller type='scsi' index='0' model='virtio-scsi'/>
    <controller type='usb' index='0' model='qemu-xhci' ports='8'/>
    <controller type='virtio-serial' index='0'/>
    <channel type='unix'>
      <source mode='bind' path='{directory}/{name}.channel'/>
      <target type='virtio' name='com.example.lab.0'/>
    </channel>
    <serial type='file'><source path='{directory}/{name}-serial.log'/><target port='1'/></serial>
    <serial type='tcp'><source mode='bind' host='127.0.0.1' service='4555'/><protocol type='raw'/>
      <target port='2'/></serial>
    <parallel type='file'><source path='{directory}/{name}-parallel.log'/><target port='0'/></parallel>
    <input type='tablet' bus='usb'/>
    <input type='keyboard' bus='virtio'/>
    <tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>
    <sound model='ich9'/>
    <audio id='1' type='file' path='{directory}/{name}.wav'/>
    <video><model type='virtio' heads='1' primary='yes'/></video>
    <watchdog model='i6300esb' action='reset'/>
    <memballoon model='virtio'><stats period='10'/></memballoon>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
    <panic model='isa'/>
    <shmem name='{name}-shared'><model type='ivshmem-plain'/><size unit='M'>4</size></shmem>
    <filesystem type='mount' accessmode='mapped'>
      <source dir='{directory}'/><target dir='lab'/>
    </filesystem>"""

# Libvirt defines these, but to start them the machine would need devices and bridges that the lab cannot make.
UNSTARTABLE_DEVICES = """
    <vsock model='virtio'><cid auto='no' address='4711'/></vsock>
    <interface type='bridge'>
      <mac address='52:54:00:00:00:03'/><source bridge='lab-bridge'/><target dev='lab-tap'/><model type='virtio'/>
    </interface>"""

RICH_EXTRA = """
  <genid>{genid}</genid>
  <qemu:commandline xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
    <qemu:arg value='-name'/>
    <qemu:arg value='{name},debug-threads=on'/>
    <qemu:env name='LAB' value='1'/>
  </qemu:commandline>"""


def rich_domain(
    name: str, disks: Sequence[str], directory: Path, *, nvram_path: Path | None = None, startable: bool = False
) -> str:
    """Define a domain with about every kind of device that libvirt takes.

    Args:
        name: its name, which also stands in many paths.
        disks: what `disk` returns; targets `sdz` and `hdz` are taken by drives of its own.
        directory: where its log files and sockets would be.
        nvram_path: where its variable store is; `<directory>/<name>_VARS.fd` otherwise.
        startable: leave out what cannot be started in the lab. It needs the lab's network, which needs root.
    """
    place = str(directory)
    return domain(
        name,
        disks=[*disks, disk(None, "raw", "sdz", bus="sata", device="cdrom", read_only=True)],
        interfaces=[
            interface(mac_address(1)),
            interface(mac_address(2, OUI_OTHER), type_="network", source="lab", extra="<link state='down'/>"),
        ],
        devices=RICH_DEVICES.format(directory=escape(place), name=escape(name))
        + ("" if startable else UNSTARTABLE_DEVICES)
        + vnc(5931, password=VNC_PASSWORD, websocket=5731)
        + spice(5932, password=VNC_PASSWORD),
        firmware=nvram(nvram_path or directory / f"{name}_VARS.fd"),
        smbios=True,
        agent=True,
        metadata=FOREIGN_METADATA,
        description="Two lines\nand a < and an &",
        memory_mib=256,
        extra=RICH_EXTRA.format(genid=uuid.uuid4(), name=escape(name)),
    )
