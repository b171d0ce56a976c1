"""Write a checkpoint in the format of another program; the same as `distil-ray convert`.

    python jobs/convert.py model.name=students/large-v3-2 format=ggml output.uri=ggml-student.bin dtype=q5_0

The script needs no installation: it runs in a checkout, and in the working directory that Ray copies to a node.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from distil_ray.commands.main import run


def main() -> int:
    return run("convert", sys.argv[1:], "jobs/convert.py")


if __name__ == "__main__":
    sys.exit(main())
