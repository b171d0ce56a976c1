"""Compares transcripts with references: normalizers, word error rates with intervals, and the summary of a run."""
