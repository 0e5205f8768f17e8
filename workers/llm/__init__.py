"""The client of model servers: attempts, retries, hedging, circuit breakers."""
