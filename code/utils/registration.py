"""CoGRNet's published command `python ./code/utils/registration`: says which program does that here.

    python code/utils/registration.py

There is no `__init__.py` here, so this folder never stands in for the package `utils` at the root of the repository: Python prefers a
package with one wherever it is, and every script puts the root first.
"""

import sys

ANSWER = (
    "error: CoGRNet's registration is another program here: python code/CoGRNet_register.py --dataset LA --root_path DATA "
    "(docs/cogrnet.md)"
)

if __name__ == "__main__":
    print(ANSWER, file=sys.stderr)
    sys.exit(2)
