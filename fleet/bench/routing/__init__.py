"""Measures how calls are spread over several model servers: prefix caches, balance, waiting, and a lost server."""
