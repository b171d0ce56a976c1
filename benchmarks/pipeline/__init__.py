"""CPU cost of the pipeline itself: a whole run with a recognizer that does nothing, measured process by process.

`command.py` runs the job over synthetic corpora (`corpus.py`) of two sizes, so that the start-up cost can be
subtracted. `run.py` is the measured process; it uses the recognizer of `null_model.py`. `process_tree.py` samples CPU
seconds of all processes of the run from /proc. Begin with `command.py`.
"""
