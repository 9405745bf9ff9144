"""What a single experiment alone needs."""
