"""Tests of what a clone is planned to be."""
