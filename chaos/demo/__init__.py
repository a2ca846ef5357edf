"""The demonstration: real traffic through a whole mesh, faults on purpose, and a verdict."""
