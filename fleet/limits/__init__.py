"""Defines how large things are: streams, and the pool of workers."""
