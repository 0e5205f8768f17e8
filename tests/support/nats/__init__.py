"""Real nats-servers, and the `nats` command line."""
