"""Connects to NATS JetStream: connections, streams and consumers, payloads that do not fit one message."""
