"""Measures what the fleet costs in time, processor and memory, compared with hand-written code in the same run.

`rig` starts everything, `systems` are what is compared, `load` drives them, `processes` reads what they took; each mode
of the benchmark is a module of its own.
"""
