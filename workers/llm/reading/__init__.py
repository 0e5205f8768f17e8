"""Reads the bytes of a response into a text: events, reasoning, endings, silence."""
