"""Deleting clones with what was made for them."""
