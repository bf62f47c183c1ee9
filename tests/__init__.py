"""The tests of virtomate; they mirror the package."""
