"""Tenants: accounts of NATS that share one fleet."""
