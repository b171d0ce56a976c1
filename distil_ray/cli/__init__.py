"""Command-line interface shared by all jobs: options, console output, signals, exit codes.

Begin with `command_line.py`: it makes a job's parser from the settings, runs the job and turns exceptions into exit
codes. `console.py` prints labeled lines or JSON lines, `signals.py` turns SIGTERM and Ctrl-C into an exception, and
`options.py` parses the `key=value` options of commands that have few settings of their own (export, report, compare,
benchmarks). The jobs themselves are in `jobs/`, one page each.

Nothing here knows Ray, models or transcripts, and nothing heavy is imported, so that `--help` answers at once.
"""
