"""Everything that people and scripts see. Knows records, not libvirt; rich is loaded only where a terminal shows it."""
