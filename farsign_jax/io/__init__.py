"""Files: atomic writes, run folders, provenance and tables."""
