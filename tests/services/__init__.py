"""Tests of virtomate.services: what the tool does."""
