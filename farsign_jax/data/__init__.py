"""Data sets as NumPy arrays, and partitions of their examples among workers."""
