"""How cost and speed change as a fleet grows: when idle, with stored and open deliberations, with more processes."""
