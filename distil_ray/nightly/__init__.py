"""Nightly runs: one scheduled run per date, compared with earlier runs and reported to a webhook.

`nightly_run.py` is the sequence of a nightly run; begin there. `run_records.py` reads and computes the figures of each
date; `drift.py` compares them with earlier dates; `redo.py` transcribes the recordings of a date again;
`history_page.py` writes the page of all runs; `webhook.py` sends the report; `assistant_retraining.py` trains the
assistant afterwards.

The transcription itself is that of `distil_ray.pipeline`. This folder does not know audio, models or Ray, and it does
not schedule anything: cron, Airflow or KubeRay starts `distil-ray nightly`. The date of a run is today in
`nightly.timezone`, or the one that `--as-of` or `--redo` names.
"""
