"""Pseudo-labels: builds a training data set from the transcripts of an output and the audio of its recordings.

The data set has the columns that the training script of distil-whisper reads, in Parquet files below OUTPUT/dataset.
Transcription is an ordinary run (`distil_ray.pipeline`); this folder starts it, and then only reads its transcripts. It
does not know the recognizers or the training of a student.

Begin with `build.py`, which runs a build from its settings to the data set's card. The order of the data is
`utterances.py` (one row for each chunk, with metrics), `filters.py` (rejects rows), `packing_choice.py` (resolves
`labels.packing=auto`), `packing.py` (joins utterances to examples and plans the shards), `shards.py` (adds the audio)
and `dataset_card.py`. `dataset_schema.py` describes the tables between them; `existing_dataset.py` finds what
an earlier build made. `job.py` is the command, and `threshold_sweep.py` is its `--sweep`.
"""
