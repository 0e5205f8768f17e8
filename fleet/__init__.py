"""The control plane: takes requests from NATS, moves deliberations forward, publishes their results."""

__version__ = "0.1.0"
