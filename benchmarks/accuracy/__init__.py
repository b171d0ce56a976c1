"""Word error rates of this package in its modes, and of other programs with their defaults, on the same recordings.

Unlike in `benchmarks/comparison`, each program decodes as its users get it: with its beams, temperature fallback and
conditioning. `modes.py` lists programs and modes, `recordings.py` chooses the recordings, `transcripts.py` runs what is
missing and stores it, `results.py` scores and pairs, `report.py` writes tables, and `command.py` ties all together.
"""
