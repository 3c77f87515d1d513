"""A seed for each purpose, from the one of the experiment."""

import hashlib


def derive_seed(seed: int, purpose: str, epoch: int = 0, rank: int = 0) -> int:
    """Derive the seed of one purpose; seeds of different purposes, epochs and ranks are unrelated.

    Args:
        seed: ``train.seed``.
        purpose: The purpose, such as ``order`` or ``dropout``.
        epoch: The number of epochs that are done.
        rank: The number of the process, where each draws its own.

    Returns:
        A whole number below 2^63.
    """
    text = f"{seed}/{purpose}/{epoch}/{rank}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
