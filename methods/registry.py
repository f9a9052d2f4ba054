"""The methods by the name that `--method` takes: a module each, with its flags (`Options`), the values it changes (`PRESET`) and its
stages (`stages(frame)`)."""

from methods import bcp, cogrnet, edge_guided, mean_teacher, supervised

METHODS = {"edge_guided": edge_guided, "bcp": bcp, "supervised": supervised, "mean_teacher": mean_teacher, "cogrnet": cogrnet}
