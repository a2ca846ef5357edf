"""The way events come in and sanitised data goes out."""
