"""A server that speaks vLLM's HTTP API, for demo, tests, benchmarks and faults."""
