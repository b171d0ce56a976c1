"""One run of the job with the null recognizer, as a process of its own, so that its process tree can be measured.

python -m benchmarks.pipeline.run CONFIG.yaml
"""

import sys

from rich.console import Console

from benchmarks.pipeline.null_model import NullTranscribeStage
from distil_ray.config.loader import load_config
from distil_ray.pipeline import runner

if __name__ == "__main__":
    sys.exit(runner.transcribe(load_config(sys.argv[1], []), Console(), NullTranscribeStage))
