"""The options --draws and --seed of the bootstrap, which several scripts have."""

from utils.errors import UserError

FEWEST_DRAWS = 100


def check_bootstrap(draws: int, seed: int) -> None:
    """Raise UserError for a number of draws or a seed that cannot be used."""
    if draws < FEWEST_DRAWS or not 0 <= seed < 2**63:
        raise UserError(
            f"--draws {draws}, --seed {seed}: use at least {FEWEST_DRAWS} draws, and a seed from 0 "
            "to 2^63 - 1"
        )
