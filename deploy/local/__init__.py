"""The launcher: the whole mesh on one machine, from a plain table of processes."""
