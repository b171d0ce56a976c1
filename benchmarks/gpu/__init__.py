"""The GPU path: speed against the limits of the chip and against other programs, and exactness against the CPU.

`command.py` plans jobs within a time budget and runs each as a process (`worker.py`). `limits.py` measures the chip,
`native.py` the native recognizer (with `phases.py`), `baselines.py` the other programs. `shapes.py` makes checkpoints
with random weights, `work.py` counts the least work of a model, `report.py` prints the share of the limit that is
reached. Needs torch, transformers, numpy and rich, but not Ray. Begin with `command.py`.
"""
