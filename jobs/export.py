"""Export an output to another format; the same as `distil-ray export`.

    python jobs/export.py output.uri=s3://bucket/text format=srt to=s3://bucket/subtitles

The script needs no installation: it runs in a checkout, and in the working directory that Ray copies to a node.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from distil_ray.commands.main import run


def main() -> int:
    return run("export", sys.argv[1:], "jobs/export.py")


if __name__ == "__main__":
    sys.exit(main())
