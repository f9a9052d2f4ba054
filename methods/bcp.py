"""BCP (Bai et al., CVPR 2023, arXiv 2305.00673): the edge-guided method without its three additions, the baseline."""

from dataclasses import dataclass

from methods import edge_guided
from methods.edge_guided import stages as stages
from methods.edge_guided import title as title


@dataclass(frozen=True)
class Options(edge_guided.Options):
    """The same flags: an ablation is BCP and one of them."""


PRESET = {
    "exp": "bcp_baseline",
    "egm": "none",
    "mask": "fixed",
    "teachers": "ema",
    "ema_decay": 0.99,
}
