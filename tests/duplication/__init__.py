"""Tests of virtomate.duplication: how volumes get duplicated."""
