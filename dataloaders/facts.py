"""What is true of a data set whatever is done with it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DatasetFacts:
    """Facts of one data set; `class_names` start with the background."""

    name: str
    class_names: tuple[str, ...]
    channels: int
    dims: int

    @property
    def classes(self) -> int:
        return len(self.class_names)


ACDC = DatasetFacts("ACDC", ("background", "right ventricle", "myocardium", "left ventricle"), channels=1, dims=2)
