"""Is it the same, and is it better? The proof, losses and KL, scores with error bars."""

from llamune.evaluate.answers import AnswerBook, identity_of
from llamune.evaluate.comparepage import compare_report, figures_of, vote_page
from llamune.evaluate.contamination import Training, training_of
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
from llamune.evaluate.evaluation import Evaluation, evaluate
from llamune.evaluate.forgetting import Forgetting, base_of, forgotten, general_items
from llamune.evaluate.held_out import score_records
from llamune.evaluate.history import KeptScore, kept_scores, scores_path
from llamune.evaluate.items import Item, item_of, read_items
from llamune.evaluate.judge import RUBRIC, Judge
from llamune.evaluate.metrics import METRICS, Metric, metric_named, metric_of, metrics_of
from llamune.evaluate.outcomes import Asking, Outcome, outcomes_of
from llamune.evaluate.prompts import default_conversations
from llamune.evaluate.proof import Proof, prove, prove_adapter
from llamune.evaluate.quality import TextQuality, sample_text, text_quality, windows
from llamune.evaluate.ratings import Rating, Vote, add_vote, ratings_of, read_votes
from llamune.evaluate.report import html_report
from llamune.evaluate.scores import Comparison, Score, comparison_of, score_of
from llamune.evaluate.sidebyside import (
    Contestant,
    Judgement,
    Pairing,
    judged,
    pairings,
    read_prompts,
    rounds,
)
from llamune.evaluate.spelling import Conversation, Spelling

__all__ = [
    "METRICS",
    "RUBRIC",
    "Agreement",
    "AnswerBook",
    "Asking",
    "Comparison",
    "Contestant",
    "Conversation",
    "Evaluation",
    "Forgetting",
    "Item",
    "Judge",
    "Judgement",
    "KeptScore",
    "Metric",
    "Outcome",
    "Pairing",
    "Proof",
    "Rating",
    "Score",
    "Spelling",
    "Tally",
    "TextQuality",
    "Training",
    "Vote",
    "add_vote",
    "agreement",
    "base_of",
    "bits_per_byte",
    "compare_report",
    "comparison_of",
    "default_conversations",
    "evaluate",
    "figures_of",
    "forgotten",
    "general_items",
    "html_report",
    "identity_of",
    "item_of",
    "judged",
    "kept_scores",
    "kl_divergence",
    "log_softmax",
    "metric_named",
    "metric_of",
    "metrics_of",
    "outcomes_of",
    "pairings",
    "perplexity",
    "prove",
    "prove_adapter",
    "ratings_of",
    "read_items",
    "read_prompts",
    "read_votes",
    "rounds",
    "sample_text",
    "score_of",
    "score_records",
    "scores_path",
    "text_quality",
    "token_losses",
    "training_of",
    "vote_page",
    "windows",
]
