"""Transcribe recordings; the same as `distil-ray transcribe`, for `ray job submit`.

    python jobs/transcribe.py --config gpu input.uri=s3://bucket/audio output.uri=s3://bucket/text

The script needs no installation: it runs in a checkout, and in the working directory that Ray copies to a node.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from distil_ray.commands.main import run


def main() -> int:
    return run("transcribe", sys.argv[1:], "jobs/transcribe.py")


if __name__ == "__main__":
    sys.exit(main())
