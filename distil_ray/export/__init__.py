"""Export of an output to formats that other programs read: subtitles, text, manifests, word times, tar shards.

`job.export` is the whole job: it selects the rows (`transcripts`), loads the format by its name and writes files to the
target (`destinations`). An export never changes the output that it reads.

Each module of `formats` is one format, described by its `base.ExportFormat`. The other modules are shared by several
formats: subtitles (`subtitles` finds timed words, `cues` divides them, `line_breaks` breaks their lines), JSON records,
calls and their turns, audio of a recording, and tar shards of transcripts and of training data. `redactor` masks
transcripts before any format sees them.
The folder knows nothing about recognition; it needs neither PyTorch nor Ray. Begin with `base`, then `job`.
"""
