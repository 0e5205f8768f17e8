"""Ways to ask a fleet: by commands, and as any NATS library does."""
