"""The loss of children, in nats per example (per token for text)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

_FEW_CLASSES = 32
"""Below this number of classes the log of the softmax takes a CPU longer than its parts: with 10, three times."""


def mean_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy, mean over all predictions: logits (..., classes), labels (...) -> ()."""
    return losses(logits, labels).mean()


def losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each prediction: logits (..., classes), labels (...) -> (...).

    `F.cross_entropy` also looks for a class to ignore, which under vmap is a third of all operations. The loss is
    computed in at least float32, whatever `torch.autocast` made of the logits.
    """
    if logits.dtype.itemsize < 4:
        logits = logits.float()
    if logits.shape[-1] < _FEW_CLASSES and logits.is_cpu:
        logits = logits - logits.detach().amax(-1, keepdim=True)
        right = logits.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
        return logits.exp().sum(-1).log() - right
    return -F.log_softmax(logits, dim=-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)


def score(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Loss and share of correct predictions of every example.

    Args:
        logits: (children, examples, classes), or (children, examples, context, classes).
        labels: (examples,) or (examples, context), the same for all children.

    Returns:
        Two of (children, examples).
    """
    labels = labels.expand(len(logits), *labels.shape)
    loss = losses(logits, labels)
    right = (logits.argmax(-1) == labels).to(logits.dtype)
    return (loss, right) if loss.dim() == 2 else (loss.flatten(2).mean(2), right.flatten(2).mean(2))
