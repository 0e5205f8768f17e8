"""Chaos: a fleet under load is broken on purpose, on a seeded schedule, and the recorded history is checked.

`schedule` and `load` decide everything from the seed; `cluster` is what gets broken; `faults` break it; `history` is
what was seen; `invariants` judge it; `run` ties it together.
"""
