"""Plays public suites of tasks, and one's own, from copies that the user has; none is shipped."""
