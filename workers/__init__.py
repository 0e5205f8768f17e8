"""The data plane: makes agent calls, and simulates a model server."""
