"""Write synthetic images in the layout of a public data set, to try everything without real data.

python code/make_phantom.py --dataset ACDC --root DATA
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from commands.make_phantom import make_phantom
from utils.cli import run

if __name__ == "__main__":
    run(lambda argv: make_phantom(argv, description=__doc__))
