"""Train an assistant; the same as `distil-ray train-assistant`, for `ray job submit`.

    python jobs/train_assistant.py --config train_assistant output.uri=s3://bucket/text

The script needs no installation: it runs in a checkout, and in the working directory that Ray copies to a node.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from distil_ray.commands.main import run


def main() -> int:
    return run("train-assistant", sys.argv[1:], "jobs/train_assistant.py")


if __name__ == "__main__":
    sys.exit(main())
