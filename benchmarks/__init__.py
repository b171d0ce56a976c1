"""Benchmarks of distil_ray, and comparisons with other Whisper implementations. Not part of the installed package.

`jobs/benchmark.py COMMAND key=value ...` runs them. Each folder holds one kind of measurement; its `command.py` goes
from the settings (`settings.py`) to a printed table and a JSON report with a description of the machine
(`machine.py`):

- pipeline: CPU seconds of the pipeline around a recognizer that does nothing.
- planning: seconds and memory of the ledger and the plan for very many recordings.
- scale: requests to the store and their price, and the ledger of very many files.
- comparison, engines: speed and WER of this recognizer and of other programs, with the same weights and audio.
- accuracy: word error rates in every mode, and of other programs with their defaults.
- exactness: tokens of the native recognizer and of transformers' `generate`.
- word_times: word timestamps against known edges of utterances.
- speculative: speculative decoding against decoding without an assistant.
- gpu: the GPU path against the limits of the chip and against other programs.

The package never imports this folder. Begin with `settings.py`, then read `comparison/command.py`.
"""
