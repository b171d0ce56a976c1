"""Time and memory before recognition begins, for hundreds of thousands of recordings: the ledger and the plan.

`command.py` writes an output with many rows, then starts `run.py` as a process of its own, which reads the ledger,
plans synthetic recordings and prints its CPU time and peak memory as JSON. The listing of a store is not measured,
because it depends on the store. Begin with `command.py`.
"""
