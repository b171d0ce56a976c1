"""The commands of `distil-ray`: one module per command, found by its name.

`main.py` is the console script: it lists the commands and imports the module of the one that is called, so that
`distil-ray --help` imports no settings and nothing heavy. A module declares its help, its settings and its options
(`cli/command.py`) and passes them to the function that does the work, which is imported only when it is called. The
pages in `jobs/` call the same modules, for `ray job submit`.

Nothing here does work of its own. Begin with `main.py`, then `transcribe.py`.
"""
