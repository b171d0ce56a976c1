"""Lists the recordings of an input and fetches their audio.

Begin with `listing`: `list_recordings` yields a `Recording` for everything at ``input.uri``. Then:

* `formats`: one module per input format. `base` has the interface, `format_detection` chooses a format;
* lists and tables: `row_files` reads rows, `columns` says what their cells mean, `row_errors` makes failed recordings
  of bad rows, `path_resolution` finds the files that rows name;
* audio files: `audio_files` lists folders, `references` finds the texts beside the audio, `containers` the shards and
  tables among the files;
* containers: `tar_index`, `webdataset`, `parquet`, `hf_datasets` and `audio_tables` list what is inside a file;
* `location` says which part of which file a recording is, and `fetch` writes that part to a local file.

Readers do not decode audio and know nothing of models, of Ray or of the output. A listing is a stream: memory stays
bounded for millions of recordings. Whatever cannot be read becomes a recording with an error, never a gap.
"""
