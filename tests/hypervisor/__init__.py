"""Tests of virtomate.hypervisor: what is done through libvirt."""
