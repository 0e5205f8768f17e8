"""Decides deliberations, and does nothing else: no await, no clock, no random source, no NATS, no Ray."""
