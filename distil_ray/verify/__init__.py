"""Checks of a finished output, from outside and without changing it.

`inventory.py` reads every file of an output and keeps keys and counts. `verify.py` compares them with the plans and
summaries of the runs, and with the input if it is given. `recheck.py` draws a sample of rows, and `retranscription.py`
transcribes them again in float32, chunk by chunk. All counts are computed again from the files, and nothing is
repaired. Begin with `verify.py`.
"""
