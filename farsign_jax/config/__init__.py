"""Configuration: everything that decides the numbers of a run."""
