"""The command `isthmus`: one file for each group of commands, and each prints JSON when asked to."""
