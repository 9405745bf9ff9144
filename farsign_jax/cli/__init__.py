"""Command lines: help texts and one-line errors."""
