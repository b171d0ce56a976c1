"""Write the report page of a run again; the same as `distil-ray report`.

    python jobs/report.py output.uri=s3://bucket/text

The script needs no installation: it runs in a checkout, and in the working directory that Ray copies to a node.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from distil_ray.commands.main import run


def main() -> int:
    return run("report", sys.argv[1:], "jobs/report.py")


if __name__ == "__main__":
    sys.exit(main())
