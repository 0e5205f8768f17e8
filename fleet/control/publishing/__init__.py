"""Publishes what a state must still say: effects, terminal events, each once."""
