"""`python -m distil_ray` is the console script `distil-ray`."""

import sys

from distil_ray.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
