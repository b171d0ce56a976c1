"""A checkpoint in every format: read by this package, and run in the program that each format belongs to.

`catalog.py` lists the programs, `tokens.py` is the worker process of a program, `conversion_cost.py` measures what
reading a format costs. `distil_ray.whisper.formats` writes and reads all of them.
"""
