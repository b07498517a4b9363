"""Recipes and run folders as data, and what this machine measured of itself. No torch."""

from llamune.runs import machine
from llamune.runs.defaults import CLASSIC, CLASSIC_EPOCHS, Situation, default_learning_rate, settle
from llamune.runs.folder import Run, RunError, runs_folder
from llamune.runs.recipe import DataFile, Recipe, RecipeError, check_choices, read_choices
from llamune.runs.record import (
    Base,
    DataFacts,
    Licence,
    Loss,
    Memory,
    RunRecord,
    Score,
    Seconds,
    State,
)

__all__ = [
    "CLASSIC",
    "CLASSIC_EPOCHS",
    "Base",
    "DataFacts",
    "DataFile",
    "Licence",
    "Loss",
    "Memory",
    "Recipe",
    "RecipeError",
    "Run",
    "RunError",
    "RunRecord",
    "Score",
    "Seconds",
    "Situation",
    "State",
    "check_choices",
    "default_learning_rate",
    "machine",
    "read_choices",
    "runs_folder",
    "settle",
]
