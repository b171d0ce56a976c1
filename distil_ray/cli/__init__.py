"""Parts that all commands share: parser and help, console output, signals, exit codes.

Begin with `command.py`: a command declares its help, flags and settings there, and is run from its command line.
`arguments.py` sorts the words of a command line into settings and paths. `command_line.py` turns exceptions into
messages and exit codes. `console.py` prints labeled lines or JSON lines, `signals.py` turns SIGTERM and Ctrl-C into an
exception, and `options.py` parses `key=value` options that are not settings of a run (export, report, compare,
benchmarks). The commands themselves are in `commands/`, one module each.

Nothing here knows Ray, models or transcripts, and nothing heavy is imported, so that `--help` answers at once.
"""
