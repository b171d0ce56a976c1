"""Parquet tables with a column of audio: files, or decoded samples with their rate.

`audio_tables` finds the column and makes the recordings, `distil_ray.readers.parquet` reads the cells.
"""

from distil_ray.readers.base import InputFormat
from distil_ray.readers.containers import PARQUET_AUDIO, is_audio_table, read_audio_table

FORMAT = InputFormat(PARQUET_AUDIO, read_audio_table, has_content=is_audio_table)
