"""Provides the page: static files that a browser shows, which speaks NATS over WebSocket with its user's rights."""
