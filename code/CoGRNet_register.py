"""Turn two annotated slices of each labelled volume into coarse 3-D labels, the first step of CoGRNet.

    python code/CoGRNet_register.py --dataset LA --labelnum 5

For the first --labelnum cases of the train list it reads the volume and, of the label, only the two annotated slices, registers each
slice to its neighbour (ANTs) and carries the label along. Beside each <case>.h5 it writes <case>px.h5 and <case>py.h5, which
CoGRNet_train.py reads; figures and a picture per case go to --output_dir. About 45 s for a volume and plane of LA on one core.
Stopped by Ctrl-C or killed, the same command continues with the first unfinished case.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from commands.register import register
from utils.cli import run

if __name__ == "__main__":
    run(lambda argv: register(argv, description=__doc__))
