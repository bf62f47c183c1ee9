"""Tests of what the services know about storage."""
