"""Comparison of transcripts with references, and the figures of a run.

`normalizers.py` and `typography.py` prepare texts; `wer.py` counts edits and computes confidence intervals;
`statistics.py` reads the rows of an output back as arrays; `summary.py` turns them into summary.json, groups.csv and
failed.csv; `summary_table.py` prints the table at the end of a run. Nothing here knows Ray, audio or models. Begin with
`wer.py`.
"""
