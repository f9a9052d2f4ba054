"""`python code/utils/registration`, the folder, answers like `registration.py` next to it."""

import runpy
from pathlib import Path

runpy.run_path(f"{Path(__file__).resolve().parent}.py", run_name="__main__")
