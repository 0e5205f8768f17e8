"""Calls model servers: attempts, retries, hedging, circuit breakers."""
