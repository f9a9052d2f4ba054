"""Answer CoGRNet's published command `python ./code/utils/registration` with the name of ours.

    python code/utils/registration.py

There is no `__init__.py` here. Python prefers a package with one, so this folder does not hide the
package `utils` at the root of the repository.
"""

import sys

ANSWER = (
    "error: CoGRNet's registration is another program here: "
    "python code/CoGRNet_register.py --dataset LA --root_path DATA (docs/cogrnet.md)"
)

if __name__ == "__main__":
    print(ANSWER, file=sys.stderr)
    sys.exit(2)
