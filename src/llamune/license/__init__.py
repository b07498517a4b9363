"""What licences ask of a model and of what is made from it: terms as data, nothing guessed.

This is no legal advice; it is exact about what the texts say and in which clause.
"""

from llamune.license.derive import Derivative, Owed, Verdict, derive
from llamune.license.recognise import Evidence, Found, licences_of, of_key, of_text
from llamune.license.record import (
    ACTS,
    ANSWERS,
    DUTY_KINDS,
    SHARING,
    Act,
    Answer,
    Duty,
    Ruling,
    Terms,
    all_terms,
    terms,
)
from llamune.license.wording import describe_duty, obligations, summary_lines

__all__ = [
    "ACTS",
    "ANSWERS",
    "DUTY_KINDS",
    "SHARING",
    "Act",
    "Answer",
    "Derivative",
    "Duty",
    "Evidence",
    "Found",
    "Owed",
    "Ruling",
    "Terms",
    "Verdict",
    "all_terms",
    "derive",
    "describe_duty",
    "licences_of",
    "obligations",
    "of_key",
    "of_text",
    "summary_lines",
    "terms",
]
