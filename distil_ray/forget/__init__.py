"""Removal of recordings from an output on request, from every file that names or quotes them.

`job.py` is the sequence of the command; begin there. `selection.py` finds the recordings that a request names,
`request.py` is what is known of them until the request is finished. `rows.py`, `labels.py`, `run_folders.py` and
`exports.py` remove them from transcripts and indexes, data sets, the files of runs, and exports.

A request is stored before anything is removed, and each step can be repeated: a call after an interrupted one finishes
it. Nothing here knows models, audio or Ray.
"""
