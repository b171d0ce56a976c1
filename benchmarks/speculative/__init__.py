"""Speculative decoding: tokens, steps and decoder time with an assistant, compared with decoding without one.

`command.py` measures real checkpoints on real speech, and transformers' assisted generation beside them
(`generate.py`). `cost.py` predicts the speed-up for shapes whose checkpoints are not available, from the cost of
decoder steps with random weights. Begin with `command.py`.
"""
