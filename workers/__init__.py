"""Makes agent calls (the data plane), and simulates a model server."""
