"""A transcription run: the driver, the Ray Data graph and the stages that it runs.

Begin with `runner.py`, the run from settings to summary. It calls `setup.py` (settings checked, model resolved),
`planner.py` (recordings to process, packed into tasks), `ray_graph.py` (the graph on Ray) and `finalize.py` (summary,
completeness). `plan_report.py` prints the plan, and `capacity.py` divides the CPUs among recognizers. While the graph
runs, `ray_monitor.py` detects stalls, `worker_state.py` carries the state of the recognizers to the driver, and
`progress.py` and `metrics.py` show figures.

The stages are plain callables from Arrow tables to Arrow tables: `decode_stage.py`, `transcribe_stage.py` (inside
`fault_isolation.py`) and `write_stage.py`. They do not import Ray, so that tests call them as functions; only
`ray_graph.py`, `ray_cluster.py`, `ray_logging.py` and `metrics.py` import it.
"""
