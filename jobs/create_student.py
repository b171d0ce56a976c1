"""Create a student from a Whisper checkpoint; the same as `distil-ray create-student`.

    python jobs/create_student.py openai/whisper-large-v3 students/large-v3-2 --layers 2

The script needs no installation: it runs in a checkout, and in the working directory that Ray copies to a node.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from distil_ray.commands.main import run


def main() -> int:
    return run("create-student", sys.argv[1:], "jobs/create_student.py")


if __name__ == "__main__":
    sys.exit(main())
