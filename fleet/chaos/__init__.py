"""Breaks a fleet under load on a seeded schedule, and checks the recorded history.

`schedule` and `load` decide everything from the seed; `cluster` is what gets broken; `faults` break it; `history` is
what was seen; `invariants` judge it; `run` ties it together.
"""
