"""A loss that is not a number stops the run, on every process, before it can reach the weights."""

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from shared.errors import NonFiniteError


def raise_if_not_finite(terms: Mapping[str, Tensor | Sequence[Tensor]], images: Sequence[str] = ()) -> None:
    """Raise unless every term is finite. Collective under torch.distributed: every rank of a step calls it.

    images: names of this rank's images, for the message.

    Raises:
        NonFiniteError: naming each such term with its value; a rank whose own terms are good says that another's
            are not.
    """
    flags = torch.stack([_all_finite(term) for term in terms.values()]) if terms else torch.ones(1, dtype=torch.bool)
    bad_here = (~flags.all()).float()
    bad_anywhere = bad_here.clone()
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(bad_anywhere)
    if bad_anywhere == 0:
        return
    named = ", ".join(f"{name} = {_shown(term)}" for name, term in terms.items() if not _all_finite(term))
    here = f" (images of this process: {', '.join(images)})" if images else ""
    raise NonFiniteError(
        f"{named or 'a loss of another process'} is not finite{here}. The weights are those before this step. Look at "
        "these images; else lower the learning rate or `optim_wrapper.clip_grad.max_norm`, or lengthen the warm-up."
    )


def _all_finite(term: Tensor | Sequence[Tensor]) -> Tensor:
    tensors = [term] if isinstance(term, Tensor) else list(term)
    return torch.stack([tensor.detach().isfinite().all() for tensor in tensors]).all()


def _shown(term: Tensor | Sequence[Tensor]) -> str:
    tensors = [term] if isinstance(term, Tensor) else list(term)
    return str(sum(float(tensor.detach().sum()) for tensor in tensors))
