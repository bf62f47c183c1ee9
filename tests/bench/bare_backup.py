"""Back up the disk of a running domain by the fewest libvirt calls: `bare_backup.py URI DOMAIN FORMAT PATH`.

It is what `virsh backup-begin` does, and waits for the end: a floor for what a clone of a running domain can cost.
"""

import sys
import time

import libvirt

DOCUMENT = """
<domainbackup mode='push'>
  <disks><disk name='vda' type='file'><driver type='{format}'/><target file='{path}'/></disk></disks>
</domainbackup>"""
LOOK_EVERY_SECONDS = 0.02

libvirt.registerErrorHandler(lambda _context, _error: None, None)


def main() -> None:
    """Back up what the arguments name."""
    uri, name, format_, path = sys.argv[1:]
    connection = libvirt.open(uri)
    domain = connection.lookupByName(name)
    domain.backupBegin(DOCUMENT.format(format=format_, path=path), None, 0)
    while True:
        try:
            domain.backupGetXMLDesc(0)
        except libvirt.libvirtError:
            break
        time.sleep(LOOK_EVERY_SECONDS)
    connection.close()


if __name__ == "__main__":
    main()
