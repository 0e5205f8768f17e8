"""Measures cost and speed as a fleet grows: when idle, with stored and open deliberations, with more processes."""
