"""Cuts recordings into chunks, and merges the transcripts of chunks into the transcript of a recording."""
