"""Remove recordings from an output; the same as `distil-ray forget`.

    python jobs/forget.py output.uri=s3://bucket/text recordings=call-17.wav --plan

The script needs no installation: it runs in a checkout, and in the working directory that Ray copies to a node.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from distil_ray.commands.main import run


def main() -> int:
    return run("forget", sys.argv[1:], "jobs/forget.py")


if __name__ == "__main__":
    sys.exit(main())
