"""Pseudo-labels: the transcripts of an output and their audio as a data set that a student is trained on."""
