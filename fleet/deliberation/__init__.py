"""The pure core: decides, and does nothing else. No await, no clock, no random source, no NATS, no Ray."""
