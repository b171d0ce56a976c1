"""Batch speech recognition with Whisper and Distil-Whisper on Ray.

Importing the package loads neither torch nor ray: a driver that only prints its help, a decoder's child process and a
commit task on a CPU node all start without them.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("distil-ray")
except PackageNotFoundError:  # a checkout that was copied, not installed (a job's working_dir)
    __version__ = "0+checkout"
