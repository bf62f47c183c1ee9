"""The benchmark: what clones cost with virtomate and with other tools, side by side; see `__main__`."""
