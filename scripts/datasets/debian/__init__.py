"""Draw rows from the Debian archive."""
