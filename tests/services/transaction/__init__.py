"""Tests of claims and of their journal: what is left after each partial failure."""
