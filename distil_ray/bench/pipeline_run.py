"""One run of the job with a recogniser that answers at once; a process of its own, so that its whole tree can be told.

python -m distil_ray.bench.pipeline_run CONFIG.yaml
"""

import sys

from rich.console import Console

from distil_ray import driver
from distil_ray.bench.instant import InstantTranscribe
from distil_ray.settings import load_config

if __name__ == "__main__":
    sys.exit(driver.transcribe(load_config(sys.argv[1], []), Console(), InstantTranscribe))
