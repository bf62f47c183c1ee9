"""Virtomate clones libvirt domains."""

__version__ = "0.2.0"
