"""Tar shards in the layout of WebDataset: audio with the texts and the JSON of the same key.

`webdataset` makes the recordings, `tar_index` lists the members of a shard.
"""

from distil_ray.readers.base import InputFormat
from distil_ray.readers.containers import TAR_SHARDS
from distil_ray.readers.tar_index import is_tar_name
from distil_ray.readers.webdataset import iter_shard_recordings, read_shard

FORMAT = InputFormat(TAR_SHARDS, read_shard, has_name=is_tar_name, read_files=iter_shard_recordings)
