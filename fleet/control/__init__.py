"""Runs the control plane: dispatcher and collector, and what both are made of."""
