"""Is it the same, and is it better? The proof, losses and KL, scores with error bars."""

from llamune.evaluate.distributions import (
    Agreement,
    Tally,
    agreement,
    bits_per_byte,
    kl_divergence,
    log_softmax,
    perplexity,
    token_losses,
)
from llamune.evaluate.proof import Proof, prove, prove_adapter
from llamune.evaluate.spelling import Conversation, Spelling

__all__ = [
    "Agreement",
    "Conversation",
    "Proof",
    "Spelling",
    "Tally",
    "agreement",
    "bits_per_byte",
    "kl_divergence",
    "log_softmax",
    "perplexity",
    "prove",
    "prove_adapter",
    "token_losses",
]
