"""Write synthetic images in the layout of a public data set, to try everything without real data.

    python code/make_phantom.py --dataset ACDC --root DATA
    python code/make_phantom.py --raw --root MY_DATA

With --raw it writes raw scans in nnU-Net's layout, as your own scans would be. Prints the next
command.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import fewlabels
from commands.make_phantom import PhantomSettings
from utils.cli import parse, run


def main(argv: Sequence[str]) -> None:
    """Write the phantom that the flags describe."""
    settings = parse(PhantomSettings, argv, description=__doc__)
    fewlabels.make_phantom(**vars(settings))


if __name__ == "__main__":
    run(main)
