"""Tests of the life of linked clones."""
