"""Tests of virtomate.definition: libvirt's documents."""
