"""Compare two outputs, or two runs; the same as `distil-ray compare`.

    python jobs/compare.py a=s3://bucket/base b=s3://bucket/large

The script needs no installation: it runs in a checkout, and in the working directory that Ray copies to a node.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from distil_ray.commands.main import run


def main() -> int:
    return run("compare", sys.argv[1:], "jobs/compare.py")


if __name__ == "__main__":
    sys.exit(main())
