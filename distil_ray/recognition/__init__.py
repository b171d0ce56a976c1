"""Recognizers: chunks of audio in, hypotheses out. Knows nothing of Ray, storage, files or references."""
