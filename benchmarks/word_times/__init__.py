"""Word timestamps compared with known edges of utterances, for the native recognizer and for other programs.

`alignments.py` loads recordings whose utterances are known, aligns recognized words with them and computes the errors
of starts and ends. `command.py` gets the words: from this package's recognizers, before and after the correction of
word edges, and from other programs. Begin with `alignments.py`.
"""
