"""Holds the states of tasks: where they lie, and how they move on."""
