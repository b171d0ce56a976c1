"""Make a training data set; the same as `distil-ray pseudo-label`, for `ray job submit`.

    python jobs/pseudo_label.py --config pseudo_label input.uri=s3://bucket/audio output.uri=s3://bucket/set

The script needs no installation: it runs in a checkout, and in the working directory that Ray copies to a node.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from distil_ray.commands.main import run


def main() -> int:
    return run("pseudo-label", sys.argv[1:], "jobs/pseudo_label.py")


if __name__ == "__main__":
    sys.exit(main())
