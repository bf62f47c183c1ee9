"""Tests of virtomate.cli: the command line."""
