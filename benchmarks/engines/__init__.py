"""Workers of the compared programs: one module per program, run as a process by the Python of its environment.

Each module defines `load(job)`, which returns a function from a list of recordings to a list of texts, and passes it to
`run_worker` (comparison/worker.py). All decode greedily, without temperature fallback. The modules import their program
at the top, so that they can be imported only in its environment. Begin with `whisper_cpp.py`, the shortest one.
"""
