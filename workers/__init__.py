"""The data plane: what answers one agent call, and what stands in for a model."""
