"""Sizes the pool of workers by what is coming."""
