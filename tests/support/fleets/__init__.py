"""Fleets, or parts of one, that run for a test."""
