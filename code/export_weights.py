"""Write a checkpoint of ours as the published code would have left it, for published test scripts and other people's code.

    python code/export_weights.py code/model/BCP/ACDC_BCP_3_labeled weights.pth

RUN is a run's folder, a stage's folder (pre_train: with the optimiser, to go on with) or a checkpoint file. Needed because published
test scripts load with strict=False: given a checkpoint of ours as it is, they find no name they know and test random weights.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from commands.export import export
from utils.cli import run

if __name__ == "__main__":
    run(lambda argv: export(argv, description=__doc__))
