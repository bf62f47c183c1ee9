"""Guests: their agent, the programs that it runs, and their addresses."""
