"""Repairs what was lost: streams and consumers, stalled deliveries, messages that nobody can handle."""
