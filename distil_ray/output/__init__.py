"""The output folder: rows that exist, the lease of its writer, replaced rows, settings of earlier runs.

Begin with `run_context.py`, which has the layout of the folder and the `Run` that is passed to every stage. `ledger.py`
reads which recordings are done, `ledger_index.py` keeps an index of it for outputs of many files (`block_index.py`: how
such indexes are kept); `forgotten.py` knows the recordings that were removed on request; `ledger_rows.py` selects,
reads and drops rows; `reader.py` opens a file of transcripts of any schema version. `lease.py` admits one
writer at a time, `cleanup.py` removes what crashed runs left behind, and `run_settings.py` compares the settings of
this run with those of the rows that exist.

The output is the only state of a job: nothing is remembered elsewhere, and files are written whole. Nothing here knows
models or Ray.
"""
