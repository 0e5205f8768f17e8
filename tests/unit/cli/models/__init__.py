"""Models compared."""
