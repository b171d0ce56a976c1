"""Speed, WER and memory of this recognizer and of other Whisper programs: same weights, same audio, same machine.

Every engine (`catalog.py`) runs in a process of its own, in the virtual environment of its program
(`environments.py`), which it is started in by turns (`interleave.py`). The process side is in `worker.py` and in
`benchmarks/engines`. `results.py` computes medians and WER, `chart.py` draws them, and `command.py` ties all
together. `models.py` compares two checkpoints in the same way. Begin with `catalog.py`, then `command.py`.
"""
