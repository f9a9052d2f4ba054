"""`python code/utils/registration`, the folder, answers as `registration.py` beside it."""

import runpy
from pathlib import Path

runpy.run_path(f"{Path(__file__).resolve().parent}.py", run_name="__main__")
