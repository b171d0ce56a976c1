"""Print the outcome of a run and return its exit code; the same as `distil-ray outcome`.

    python jobs/outcome.py output.uri=s3://bucket/text

The script needs no installation: it runs in a checkout, and in the working directory that Ray copies to a node.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from distil_ray.commands.main import run


def main() -> int:
    return run("outcome", sys.argv[1:], "jobs/outcome.py")


if __name__ == "__main__":
    sys.exit(main())
