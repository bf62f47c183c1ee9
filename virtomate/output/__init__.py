"""Everything that people and scripts see. Output knows records, not libvirt; only progress bars load rich."""
