"""The page: static files that a browser shows, which itself speaks NATS over WebSocket with the rights of its user."""
