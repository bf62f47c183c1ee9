"""Read the definition of every domain once, by bare libvirt calls: `scan.py URI`."""

import sys

import libvirt


def main() -> None:
    """Scan the host that the argument names."""
    (uri,) = sys.argv[1:]
    connection = libvirt.open(uri)
    for domain in connection.listAllDomains():
        domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    connection.close()


if __name__ == "__main__":
    main()
