"""Declares single things: buckets, sizes, whose a stream is, and what differs from the settings."""
