"""Counts and spans of what tasks have done."""
