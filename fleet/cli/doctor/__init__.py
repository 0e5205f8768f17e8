"""Examines a fleet from outside: `fleet doctor`, and what it shares with `fleet status`."""
