"""Tests of the whole program against the lab's real hypervisor."""
