"""Recipes and run folders as data, and what this machine measured of itself. No torch."""

from llamune.runs import machine, measuring
from llamune.runs.defaults import PRESETS, Preset, Situation, default_learning_rate, settle
from llamune.runs.folder import Run, RunError, runs_folder
from llamune.runs.recipe import DataFile, Recipe, RecipeError, check_choices, read_choices
from llamune.runs.record import (
    Base,
    DataFacts,
    Licence,
    Loss,
    Memory,
    Rounding,
    RunRecord,
    Score,
    Seconds,
    Served,
    State,
)
from llamune.runs.steps import Line, StepSpeed, known_steps, remember_steps, steps_key

__all__ = [
    "PRESETS",
    "Base",
    "DataFacts",
    "DataFile",
    "Licence",
    "Line",
    "Loss",
    "Memory",
    "Preset",
    "Recipe",
    "RecipeError",
    "Rounding",
    "Run",
    "RunError",
    "RunRecord",
    "Score",
    "Seconds",
    "Served",
    "Situation",
    "State",
    "StepSpeed",
    "check_choices",
    "default_learning_rate",
    "known_steps",
    "machine",
    "measuring",
    "read_choices",
    "remember_steps",
    "runs_folder",
    "settle",
    "steps_key",
]
