"""Turn two annotated slices of each labelled volume into coarse 3-D labels, CoGRNet's first step.

    python code/CoGRNet_register.py --dataset LA --labelnum 5

For the first --labelnum cases of the training list it reads the volume and only the two annotated
slices of the label. It registers each slice to its neighbour (ANTs) and propagates the label. Next
to each <case>.h5 it writes <case>px.h5 and <case>py.h5, which CoGRNet_train.py reads. Measurements
and a picture of each case go to --output_dir. On one core, a volume of LA takes about 50 s for the
axial plane and 80 s for the coronal plane; --propagation improved needs half of that.

After Ctrl-C or a kill, the same command continues with the first unfinished case.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import fewlabels
from registration.settings import RegistrationSettings
from utils.cli import parse, run


def main(argv: Sequence[str]) -> None:
    """Make the coarse labels of the cases that the flags name."""
    settings = parse(RegistrationSettings, argv, description=__doc__)
    fewlabels.register(**vars(settings))


if __name__ == "__main__":
    run(main)
