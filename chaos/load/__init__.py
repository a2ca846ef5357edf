"""Real traffic: the rows of the data files, and the client that turns them into calls."""
