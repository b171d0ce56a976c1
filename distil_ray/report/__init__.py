"""HTML pages about runs: the page of one run, the comparison of two runs, and the history of nightly runs.

Every page is one self-contained file, made only from files that runs have stored (settings, summary, events, plan,
transcripts). Nothing here runs a model or changes a transcript. Begin with `run_page`, which assembles the page of a
run: `run_folder` loads the files of the run, `statistics` passes once over its rows, `details` loads the few rows that
are shown, `clips` adds audio, `verdict` decides the headline, and `page` renders the templates.
"""
