"""What must be true at the end, judged from the mesh's own books and never from the sender's counters."""
