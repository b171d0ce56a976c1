"""The Python interface: transcription without a job, a callable for Ray Data, recognizers, scores, transcripts, jobs.

The package exports the public names of this folder, `import distil_ray as dr`, and loads each on its first use. The
modules combine the stages of `pipeline/`, the readers and the evaluation; they add no recognition of their own, so a
transcript is the same as that of the job. They know nothing of the command line.

Start with `transcribe.py` (`dr.transcribe`). docs/python.md documents every function with examples.
"""
