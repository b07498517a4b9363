"""Votes between two answers, and what they say of the models: Bradley–Terry ratings.

Sources: Bradley and Terry 1952; Hunter 2004 (the iteration); Chatbot Arena (scale 400 around
1000, a tie counts half for each).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

__all__ = ["Rating", "Vote", "add_vote", "ratings_of", "read_votes"]

Doubles = npt.NDArray[np.float64]
Winner = Literal["left", "right", "tie"]

SCALE, MIDDLE = 400.0, 1000.0
NORMAL_95 = 1.959964  # half the width of a normal distribution's 95 % interval
PRIOR_TIES = 0.5
"""virtual ties a pair: without them one that never lost would be infinitely strong"""
MAX_ROUNDS = 1000
TOLERANCE = 1e-7  # of a power's logarithm: 2e-5 of a rating point


@dataclass(frozen=True, kw_only=True)
class Vote:
    """Somebody's choice between two answers to one prompt.

    Attributes:
        prompt: SHA-256 of the prompt.
        left: model whose answer stood left.
        right: model whose answer stood right.
        winner: which was better.
        by: `person`, or the model that judged.
    """

    prompt: str
    left: str
    right: str
    winner: Winner
    by: str = "person"


def add_vote(path: Path, vote: Vote) -> None:
    """Keep a vote."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as out:
        out.write(json.dumps(asdict(vote), ensure_ascii=False) + "\n")


def read_votes(path: Path) -> list[Vote]:
    """Return the votes in a file; lines that cannot be read are passed over."""
    if not path.exists():
        return []
    votes = []
    for line in path.read_text("utf-8").splitlines():
        try:
            votes.append(Vote(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return votes


@dataclass(frozen=True, kw_only=True)
class Rating:
    """How strong a model is.

    Attributes:
        model: its name.
        rating: on Elo's scale; 1000 is the mean of the models compared.
        low: lower end of the 95 % interval.
        high: upper end.
        n_votes: votes that it took part in.
        win_rate: share of those it won, ties half.
    """

    model: str
    rating: float
    low: float
    high: float
    n_votes: int
    win_rate: float


def ratings_of(votes: Sequence[Vote]) -> list[Rating]:
    """Return the ratings of every model in the votes, the strongest first."""
    models = sorted({name for vote in votes for name in (vote.left, vote.right)})
    if not models:
        return []
    places = {name: place for place, name in enumerate(models)}
    left = np.array([places[vote.left] for vote in votes])
    right = np.array([places[vote.right] for vote in votes])
    points = np.array([{"left": 1.0, "tie": 0.5, "right": 0.0}[vote.winner] for vote in votes])
    wins = table_of(left, right, points, len(models))
    rated = strengths(wins)
    margin = NORMAL_95 * standard_errors(wins, rated)
    played = (wins + wins.T).sum(1)
    found = [
        Rating(
            model=name,
            rating=float(rated[place]),
            low=float(rated[place] - margin[place]),
            high=float(rated[place] + margin[place]),
            n_votes=round(played[place]),
            win_rate=float(wins[place].sum() / played[place]),
        )
        for name, place in places.items()
    ]
    return sorted(found, key=lambda rating: -rating.rating)


def table_of(
    left: npt.NDArray[np.intp], right: npt.NDArray[np.intp], points: Doubles, n: int
) -> Doubles:
    """Return how often each model beat each other, (n, n)."""
    wins = np.zeros((n, n))
    np.add.at(wins, (left, right), points)
    np.add.at(wins, (right, left), 1 - points)
    return wins


def games_of(wins: Doubles) -> Doubles:
    """Return how often each pair met, (n, n), virtual ties included."""
    return wins + wins.T + PRIOR_TIES * (1 - np.eye(len(wins)))


def strengths(wins: Doubles) -> Doubles:
    """Return the ratings, (n,), that make votes likeliest, virtual ties included.

    Args:
        wins: how often each model beat each other, (n, n).
    """
    games = games_of(wins)
    total = (wins + PRIOR_TIES / 2 * (1 - np.eye(len(wins)))).sum(1)
    power = np.ones(len(wins))
    for _ in range(MAX_ROUNDS):
        new = total / (games / (power[:, None] + power)).sum(1)
        new /= np.exp(np.log(new).mean())
        change = np.abs(np.log(new / power)).max()
        power = new
        if change < TOLERANCE:
            break
    rated: Doubles = MIDDLE + SCALE / math.log(10) * np.log(power)
    return rated


def standard_errors(wins: Doubles, rated: Doubles) -> Doubles:
    """Return the standard error of each rating, (n,), in rating points.

    By the curvature of the likelihood (Fisher's information): resampling a handful of equal votes
    would show no spread at all and call two ties certainty.

    Args:
        wins: how often each model beat each other, (n, n).
        rated: the ratings, (n,).
    """
    points_a_nat = SCALE / math.log(10)
    chance = 1 / (1 + np.exp((rated - rated[:, None]) / points_a_nat))
    shared = games_of(wins) * chance * (1 - chance)
    information = np.diag(shared.sum(1)) - shared
    # one direction, all ratings moved together, is not in the votes: the mean is fixed
    errors: Doubles = points_a_nat * np.sqrt(np.diag(np.linalg.pinv(information, hermitian=True)))
    return errors
