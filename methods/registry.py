"""The methods by the name that `--method` takes: a module each, with its flags (`Options`), the values it changes (`PRESET`) and its
stages (`stages(frame)`)."""

from importlib import import_module

NAMES = ("edge_guided", "bcp", "averaged_copy_paste", "supervised", "mean_teacher", "cogrnet")
METHODS = {name: import_module(f"methods.{name}") for name in NAMES}
