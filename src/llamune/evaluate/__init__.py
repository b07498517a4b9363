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
from llamune.evaluate.items import Item, item_of, read_items
from llamune.evaluate.metrics import METRICS, Metric, metric_named, metric_of
from llamune.evaluate.proof import Proof, prove, prove_adapter
from llamune.evaluate.scores import Comparison, Score, comparison_of, score_of, score_records
from llamune.evaluate.spelling import Conversation, Spelling

__all__ = [
    "METRICS",
    "Agreement",
    "Comparison",
    "Conversation",
    "Item",
    "Metric",
    "Proof",
    "Score",
    "Spelling",
    "Tally",
    "agreement",
    "bits_per_byte",
    "comparison_of",
    "item_of",
    "kl_divergence",
    "log_softmax",
    "metric_named",
    "metric_of",
    "perplexity",
    "prove",
    "prove_adapter",
    "read_items",
    "score_of",
    "score_records",
    "token_losses",
]
