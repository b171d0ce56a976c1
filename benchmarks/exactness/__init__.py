"""Compares the native recognizer with transformers' own `generate`, token by token.

`generate_results.py` runs transformers and caches its results (`result_cache.py`); `checks.py` runs the native
recognizer and explains differing tokens by the margin of transformers' logits; `report.py` formats the results;
`command.py` runs all checks of all checkpoints. In float32 a difference with a margin above 0.001 is a fault. Begin
with `command.py`.
"""
