"""Knows each model server, and chooses which one takes a call."""
