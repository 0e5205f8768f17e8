"""What the fleet costs: time, processor and memory, beside what one would otherwise write, in the same run.

`rig` starts everything, `systems` are what is compared, `load` drives them, `processes` reads what they took; each mode
of the benchmark is a module of its own.
"""
