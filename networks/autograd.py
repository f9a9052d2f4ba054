"""`torch.autograd.Function` with a type for `apply`, which torch does not annotate."""

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:

    class Function(torch.autograd.Function):
        """`torch.autograd.Function`, annotated."""

        @classmethod
        def apply(cls, *args: Any, **kwargs: Any) -> Any:
            """Return the result of `forward`, and record `backward`."""
            ...
else:
    Function = torch.autograd.Function
