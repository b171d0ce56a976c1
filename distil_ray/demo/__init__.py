"""Everything that `make demo` needs around the transcription job: sample speech and an S3 endpoint on loopback.

`samples.py` builds the corpus; begin there. `clips.py` is the table of its recordings; `archives.py` downloads them
from published packages, with `sdist_metadata.py` in place of the packages' build code; `endpoint.py` serves the bucket.
`distil-ray demo` connects these and starts `distil-ray transcribe`, which does not know that it reads sample data.

This folder does not know models, Ray or the transcription pipeline, and no other folder imports it.
"""
