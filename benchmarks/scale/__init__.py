"""Requests to the store, their price, and the cost of a large ledger.

`command.py` counts the requests of small runs through a proxy and computes those of a large one. `proxy.py` is the
proxy, `counting.py` the one that counts, `corpus.py` the inputs, `run.py` the measured process, `ledger.py` the
measurement of the ledger, `memory_store.py` the store of its many blocks, `nights.py` a year of nightly runs, `skew.py`
the schedule of uneven recordings, `tail.py` the end of runs, `actors.py` many recognizers on the cluster of
`faked_cluster.py`. Begin with `command.py`.
"""
