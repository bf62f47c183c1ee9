"""What original and clone still share: everything is named, and nothing that is harmless."""

from __future__ import annotations

import copy

import pytest

from virtomate.definition import codec
from virtomate.definition.rewrite.still_shared import not_carried_over, shared_things
from virtomate.output.messages import sentences

KEPT = " is shared with the original"
PCI = "<address type='pci' domain='0x0000' bus='0x3b' slot='0x00' function='0x0'/>"


def warnings(content: str) -> tuple[str, ...]:
    """What is said of a definition with this content, which stays as it is; the end of each sentence left out."""
    domain = codec.parse_definition(f"<domain xmlns:qemu='urn:q'>{content}</domain>").domain
    untouched = copy.deepcopy(domain)

    found = sentences(shared_things(domain))

    assert domain == untouched
    assert all(sentence.endswith(KEPT) for sentence in found)
    return tuple(sentence.removesuffix(KEPT) for sentence in found)


SHARED: list[tuple[str, tuple[str, ...]]] = [
    ("<serial type='tcp'><source mode='bind' host='::' service='2445'/></serial>", ("serial port :::2445",)),
    ("<serial type='tcp'><source mode='connect' host='h' service='1'/></serial>", ("serial port h:1",)),
    (
        "<serial type='udp'><source mode='bind' host='b' service='1'/><source mode='connect' service='2'/></serial>",
        ("serial port b:1", "serial port :2"),
    ),
    (
        (
            "<serial type='tcp'><source host='h' service='1'/></serial>"
            "<console type='tcp'><source host='h' service='1'/></console>"
        ),
        ("serial port h:1",),
    ),
    ("<channel type='tcp'><source mode='bind' host='h' service='1'/></channel>", ("channel port h:1",)),
    ("<redirdev type='tcp'><source host='h' service='1'/></redirdev>", ("redirdev port h:1",)),
    ("<smartcard type='tcp'><source host='h' service='1'/></smartcard>", ("smartcard port h:1",)),
    (
        "<rng><backend model='egd' type='udp'><source service='1'/><source host='h' service='2'/></backend></rng>",
        ("rng port :1", "rng port h:2"),
    ),
    ("<serial type='dev'><source path='/dev/ttyS0'/></serial>", ("serial on host device '/dev/ttyS0'",)),
    ("<parallel type='dev'><source path='/dev/parport0'/></parallel>", ("parallel on host device '/dev/parport0'",)),
    (
        "<channel type='unix'><source mode='connect' path='/run/web.sock'/></channel>",
        ("channel connection to socket '/run/web.sock'",),
    ),
    (f"<hostdev type='pci'><source>{PCI}</source></hostdev>", ("host device (pci 0x0000:0x3b:0x00:0x0)",)),
    ("<hostdev type='mdev'><source><address uuid='u'/></source></hostdev>", ("host device (mdev u)",)),
    (
        (
            "<hostdev type='usb'><source startupPolicy='x'><vendor id='0x1'/><product id='0x2'/></source></hostdev>"
            "<hostdev type='usb'><source><address bus='1' device='2'/></source></hostdev>"
        ),
        ("host device (usb 0x1:0x2)", "host device (usb 1:2)"),
    ),
    (
        "<hostdev type='scsi'><source><adapter name='host0'/><address bus='0' target='0' unit='1'/></source></hostdev>",
        ("host device (scsi host0:0:0:1)",),
    ),
    (
        "<hostdev type='scsi_host'><source protocol='vhost' wwpn='naa.5'/></hostdev>",
        ("host device (scsi_host vhost:naa.5)",),
    ),
    (
        "<hostdev mode='capabilities' type='storage'><source><block>/dev/sdf1</block></source></hostdev>",
        ("host device (storage /dev/sdf1)",),
    ),
    ("<hostdev/>", ("host device (unknown)",)),
    ("<memory model='nvdimm'><source><path>/srv/nv</path></source></memory>", ("nvdimm file '/srv/nv'",)),
    ("<memory model='virtio-pmem'><source><path>/p</path></source></memory>", ("virtio-pmem file '/p'",)),
    (
        "<shmem name='a'><server path='/run/s'/></shmem><shmem name='b'/>",
        ("shared memory 'a'", "shared memory 'b'"),
    ),
    ("<lease><lockspace>l</lockspace><key>k</key><target path='/t'/></lease>", ("lease 'k'",)),
    ("<filesystem type='mount'><source dir='/srv'/><target dir='t'/></filesystem>", ("writable file system '/srv'",)),
    (
        "<filesystem type='mount'><driver type='virtiofs'/><source socket='/s'/><target dir='t'/></filesystem>",
        ("writable file system '/s'",),
    ),
    ("<filesystem><source pool='p' volume='v'/></filesystem>", ("writable file system 'v'",)),
    (
        "<interface type='vhostuser'><source type='unix' path='/v.sock' mode='server'/></interface>",
        ("vhost-user socket of an interface (/v.sock)",),
    ),
    (
        "<interface type='vdpa'><source dev='/dev/vhost-vdpa-0'/></interface>",
        ("vDPA device of an interface (/dev/vhost-vdpa-0)",),
    ),
    (f"<interface type='hostdev'><source>{PCI}</source></interface>", ("host device of an interface",)),
    (
        "<interface type='udp'><source address='::' port='5555'><local address='::' port='5556'/></source></interface>",
        ("UDP port of an interface (5555)",),
    ),
    ("<interface type='server'><source address='1.2.3.4' port='5'/></interface>", ("TCP port of an interface (5)",)),
    (
        "<interface type='client'><source address='1.2.3.4' port='5'/></interface>",
        ("TCP connection of an interface (5)",),
    ),
    (
        "<interface type='direct'><source dev='eth0' mode='passthrough'/></interface>",
        ("host interface 'eth0', passed through",),
    ),
    ("<interface type='bridge'><source bridge='b'/><target dev='tap'/></interface>", ("interface target 'tap'",)),
    (
        "<interface><virtualport type='midonet'><parameters interfaceid='i'/></virtualport></interface>",
        ("Midonet port of an interface",),
    ),
    (
        (
            "<interface><filterref><parameter name='IP' value='1.2.3.4'/><parameter name='IP' value='1.2.3.5'/>"
            "<parameter name='MAC' value='m'/><parameter name='IPV6' value='::1'/></filterref></interface>"
        ),
        (
            "network filter parameter IP=1.2.3.4",
            "network filter parameter IP=1.2.3.5",
            "network filter parameter MAC=m",
            "network filter parameter IPV6=::1",
        ),
    ),
    (
        (
            "<interface type='user'><backend type='passt'/><portForward proto='tcp' address='::1' dev='eth0'>"
            "<range start='22' to='2022'/><range start='80'/></portForward><portForward proto='udp'/></interface>"
        ),
        ("port forward tcp 22, 80", "port forward udp"),
    ),
    ("<graphics type='dbus' address='unix:path=/d'/>", ("D-Bus address 'unix:path=/d'",)),
    ("<input type='evdev'><source dev='/dev/input/event1'/></input>", ("host input device '/dev/input/event1'",)),
    (
        "<input type='passthrough'><source evdev='/dev/input/event2'/></input>",
        ("host input device '/dev/input/event2'",),
    ),
    ("<tpm><backend type='passthrough'><device path='/dev/tpm0'/></backend></tpm>", ("TPM at '/dev/tpm0'",)),
    (
        "<tpm><backend type='external'><source type='unix' mode='connect' path='/t.sock'/></backend></tpm>",
        ("TPM at '/t.sock'",),
    ),
    (
        (
            "<disk type='file'><source file='/p/a'><dataStore type='file'><source file='/p/d'/></dataStore></source>"
            "<target dev='vda'/></disk>"
        ),
        ("data store of disk vda",),
    ),
    # what this program does not know
    ("<newdevice>/srv/x</newdevice>", ("newdevice '/srv/x'",)),
    (
        "<newdevice a='1'><path>/a</path><path>/b</path><deep><x port='7'/></deep></newdevice><newdevice/>",
        ("newdevice path '/a'", "newdevice path '/b'", "newdevice deep/x/@port '7'"),
    ),
    ("<newdevice addr='192.0.2.1'/>", ("newdevice @addr '192.0.2.1'",)),
    ("<watchdog model='itco' file='/new'/>", ("watchdog @file '/new'",)),
    ("<interface type='user'><source socket='/new'/></interface>", ("interface source/@socket '/new'",)),
    ("<graphics type='vnc'><cert path='/new'/></graphics>", ("graphics cert/@path '/new'",)),
]


@pytest.mark.parametrize(("devices", "expected"), SHARED, ids=[str(row[1][0]) for row in SHARED])
def test_shared_device(devices: str, expected: tuple[str, ...]) -> None:
    """Whatever only one domain can have, or both write to, is named once."""
    assert warnings(f"<devices>{devices}</devices>") == expected
    assert warnings(f"<devices>{devices}{devices}</devices>") == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("<os><loader type='pflash' readonly='no'>/l</loader></os>", ("writable loader '/l'",)),
        ("<os><loader type='pflash'>/l</loader></os>", ("writable loader '/l'",)),
        ("<os><loader type='pflash' readonly='yes'>/l</loader></os>", ()),
        ("<os><loader type='rom'>/l</loader></os>", ()),
        ("<os firmware='efi'><loader type='pflash' secure='no'/></os>", ()),
        ("<seclabel type='static' model='selinux'><label>l</label></seclabel>", ("static security label 'l'",)),
        (
            "<seclabel type='static'><label>1:2</label></seclabel><seclabel type='static'><label>s</label></seclabel>",
            ("static security label '1:2'", "static security label 's'"),
        ),
        ("<seclabel type='dynamic' model='dac'/><seclabel type='none'/>", ()),
        *(
            (
                f"<qemu:commandline><qemu:arg value='-x'/><qemu:arg value='{value}'/></qemu:commandline>",
                (f"QEMU argument '{value}'",),
            )
            for value in (
                "user,id=n,hostfwd=tcp::2222-:22",
                "tcp:127.0.0.1:4444,server",
                "unix:web.sock",
                "/srv/extra.img",
                "vhost-vsock-pci,guest-cid=3",
                "virtio-net,mac=52:54:00:00:00:01",
                "socket,id=c,port=5000",
                "tap,id=n,ifname=web0",
                "-s",
                "type=1,uuid=5d4ae0f4-51fa-48d2-8ffa-af20a4f51740",
                "5D4AE0F4-51FA-48D2-8FFA-AF20A4F51740",
                "vmgenid,guid=auto",
                "usb-host,vendorid=0x1234,productid=0xbeef",
                "vfio-pci-nohotplug,sysfsdev=x",
            )
        ),
        (
            (
                "<qemu:commandline><qemu:arg value='-global'/><qemu:arg value='ICH9-LPC.noreboot=off'/>"
                "<qemu:arg value='-name'/><qemu:arg value='web,debug-threads=on'/><qemu:env name='A' value='1'/>"
                "<qemu:arg value='-smp'/><qemu:arg value='4,sockets=2'/><qemu:arg value='-S'/>"
                "<qemu:env name='B'/></qemu:commandline>"
            ),
            (),
        ),
        (
            (
                "<qemu:commandline><qemu:env name='AUDIO' value='/run/pulse'/><qemu:env name='B' value='tcp:h:1'/>"
                "</qemu:commandline>"
            ),
            ("QEMU environment variable 'AUDIO=/run/pulse'", "QEMU environment variable 'B=tcp:h:1'"),
        ),
        (
            (
                "<qemu:override><qemu:device alias='v'><qemu:frontend><qemu:property name='guest-cid' type='unsigned' "
                "value='3'/><qemu:property name='x' type='bool' value='true'/></qemu:frontend></qemu:device>"
                "<qemu:device alias='n'><qemu:frontend><qemu:property name='mac' type='string' value='52:54:00:00:00:1'"
                "/></qemu:frontend></qemu:device></qemu:override>"
            ),
            ("QEMU property 'guest-cid=3' of device 'v'", "QEMU property 'mac=52:54:00:00:00:1' of device 'n'"),
        ),
        (
            (
                "<qemu:capabilities><qemu:add capability='blockdev'/><qemu:del capability='netdev.socket'/>"
                "</qemu:capabilities><qemu:deprecation behavior='crash'/>"
            ),
            (),
        ),
        ("<qemu:deprecation behavior='omit' file='/log'/>", ("qemu:deprecation @file '/log'",)),
        ("<bhyve:commandline><bhyve:arg value='-H'/></bhyve:commandline>", ()),
        (
            "<bhyve:commandline><bhyve:arg value='-l'/><bhyve:arg value='com1,/dev/nmdm0A'/></bhyve:commandline>",
            ("bhyve argument 'com1,/dev/nmdm0A'",),
        ),
        ("<lxc:namespace><lxc:sharenet type='netns' value='red'/></lxc:namespace>", ()),
        # what this program does not know
        ("<newthing>/srv/x</newthing>", ("newthing '/srv/x'",)),
        ("<newthing><a><b address='x'/></a></newthing><new port='1'/>", ("newthing a/b/@address 'x'", "new @port '1'")),
        (
            "<os><kernel>/k</kernel><varstore path='/srv/vars' template='/t'/></os>",
            ("os varstore/@path '/srv/vars'", "os varstore/@template '/t'"),
        ),
        (
            "<memoryBacking><source type='file' path='/m'/></memoryBacking>",
            ("memoryBacking source/@path '/m'",),
        ),
        ("", ()),
        ("<devices/>", ()),
    ],
)
def test_shared_outside_of_devices(content: str, expected: tuple[str, ...]) -> None:
    """Firmware, security labels and QEMU's own arguments are looked at, too."""
    assert warnings(content) == expected


@pytest.mark.parametrize(
    "content",
    [
        (
            "<os><boot dev='hd'/><boot dev='network'/><kernel>/k</kernel><initrd>/i</initrd><cmdline>/c</cmdline>"
            "<dtb>/d</dtb><acpi><table type='slic'>/t</table></acpi><loader readonly='yes' type='pflash'>/l</loader>"
            "<nvram template='/t'>/n</nvram></os>"
        ),
        "<os><nvram type='network'><source protocol='nbd'><host name='h' port='1'/></source></nvram></os>",
        "<os><init>/sbin/init</init><initarg>/a</initarg><initdir>/</initdir><initenv name='x'>/e</initenv></os>",
        "<title>/t</title><description>/d</description><resource><partition>/machine</partition></resource>",
        (
            "<sysinfo type='smbios'><system><entry name='sku'>/s</entry></system><oemStrings><entry>/o</entry>"
            "</oemStrings></sysinfo><sysinfo type='fwcfg'><entry name='opt/x' file='/f'/></sysinfo>"
        ),
        "<launchSecurity type='sev'><dhCert>/Aa=</dhCert><session>/Bb=</session></launchSecurity>",
        "<blkiotune><device><path>/dev/sda</path><weight>500</weight></device></blkiotune>",
        "<seclabel type='dynamic'><baselabel>/b</baselabel><imagelabel>/i</imagelabel></seclabel>",
        "<bootloader>/usr/bin/pygrub</bootloader><bootloader_args>/x</bootloader_args>",
    ],
)
def test_harmless_outside_of_devices(content: str) -> None:
    """What is only read, or is text, gets no warning."""
    assert warnings(content) == ()


@pytest.mark.parametrize(
    "devices",
    [
        "<emulator>/usr/bin/qemu-system-x86_64</emulator>",
        "<tpm><backend type='emulator'><source type='dir' path='/t'/></backend></tpm>",
        "<disk type='file'><source file='/p/a'/><target dev='vda'/></disk>",
        "<disk type='block'><source dev='/dev/sda'/></disk>",
        f"<controller type='usb' model='qemu-xhci'>{PCI}</controller>",
        "<input type='tablet' bus='usb'><address type='usb' bus='0' port='1'/></input><hub type='usb'/>",
        "<serial type='pty' tty='/dev/pts/1'><target type='isa-serial' port='0'/></serial>",
        "<console type='pty' tty='/dev/pts/1'><source path='/dev/pts/1'/><target type='serial' port='0'/></console>",
        "<channel type='unix'><source mode='bind' path='/run/x'/><target type='virtio' name='a'/></channel>",
        "<channel type='spicevmc'><address type='virtio-serial' controller='0' bus='0' port='1'/></channel>",
        "<channel type='dbus'><source channel='org.qemu.usbredir'/></channel>",
        "<channel type='pty'><target type='guestfwd' address='10.0.2.1' port='4600'/></channel>",
        "<smartcard mode='host-certificates'><certificate>c</certificate><database>/etc/pki</database></smartcard>",
        "<redirdev bus='usb' type='spicevmc'/><redirfilter><usbdev class='0x08' allow='no'/></redirfilter>",
        "<graphics type='vnc' port='-1' autoport='yes'><listen type='address' address='127.0.0.1'/></graphics>",
        "<graphics type='sdl' display=':0' xauth='/root/.Xauthority'/><graphics type='dbus' p2p='yes'/>",
        "<graphics type='egl-headless'><gl rendernode='/dev/dri/renderD128'/></graphics>",
        "<video><model type='virtio'><acceleration accel3d='yes' rendernode='/dev/dri/renderD128'/></model></video>",
        "<audio id='1' type='oss'><input dev='/dev/dsp0'/><output dev='/dev/dsp1'/></audio><sound model='ich9'/>",
        "<audio id='1' type='pulseaudio' serverName='/run/pulse'/>",
        "<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>",
        "<memory model='dimm'><source><pagesize>4</pagesize></source><target><size>1</size></target></memory>",
        "<memory model='nvdimm'><source><path>/n</path></source><target><readonly/></target></memory>",
        "<filesystem><source dir='/srv'/><target dir='/mnt'/><readonly/></filesystem>",
        "<filesystem type='ram'><source usage='1'/><target dir='/mnt'/></filesystem>",
        "<filesystem><binary path='/usr/bin/virtiofsd'/><source dir='/s'/><readonly/></filesystem>",
        "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>",
        "<panic model='isa'/><watchdog/><memballoon model='virtio'/><iommu model='intel'/><crypto/><nvram/>",
        "<vsock><cid auto='yes' address='3'/></vsock>",
        "<pstore><path>/p</path></pstore>",
        "<interface type='network'><mac address='m'/><source network='n' portgroup='g'/></interface>",
        (
            "<interface type='bridge'><source bridge='b'/><script path='/etc/qemu-ifup'/><rom file='/rom'/>"
            "<backend tap='/dev/net/tun' vhost='/dev/vhost-net'/><guest dev='eth1'/></interface>"
        ),
        "<interface type='direct'><source dev='eth0' mode='bridge'/></interface><interface type='mcast'/>",
        "<interface type='user'><ip address='10.0.2.15'/><backend type='passt' logFile='/l'/></interface>",
        (
            "<interface><filterref filter='clean-traffic'><parameter name='CTRL_IP_LEARNING' value='dhcp'/>"
            "<parameter name='DHCPSERVER' value='192.0.2.1'/></filterref></interface>"
        ),
        "<serial/><rng/><hub/><interface/><filesystem type='ram'/><memory/><tpm/><input/>",
    ],
)
def test_harmless_device(devices: str) -> None:
    """What two domains can have at the same time gets no warning."""
    assert warnings(f"<devices>{devices}</devices>") == ()


@pytest.mark.parametrize(
    ("devices", "expected"),
    [
        ("<tpm><backend type='emulator' version='2.0'/></tpm>", True),
        ("<tpm><backend type='passthrough'><device path='/dev/tpm0'/></backend></tpm>", False),
        ("<tpm><backend type='external'><source type='unix'/></backend></tpm>", False),
        ("<tpm><backend type='emulator'><source type='dir' path='/t'/></backend></tpm>", True),
        ("<tpm/>", False),
        ("", False),
    ],
)
def test_left_behind(devices: str, expected: bool) -> None:
    """The state of an emulated TPM that libvirt keeps by UUID is not the clone's, and that is said."""
    domain = codec.parse_definition(f"<domain><devices>{devices}</devices></domain>").domain

    sentences = not_carried_over(domain)

    assert bool(sentences) is expected
    assert all("TPM" in sentence for sentence in sentences)
