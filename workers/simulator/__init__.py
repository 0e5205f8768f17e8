"""Simulates a vLLM server for the demo, tests, benchmarks and fault injection."""
