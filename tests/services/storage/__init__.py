"""Tests of what says whose a file is and who uses it."""
