"""How good a student is: D, M and F on prepared texts, choices among options, and how sure both are."""

from salad.intervals import Interval, mean_interval
from salad.trainer.evaluate.choice import Answers, Context, Question, Reader, answer, listener, option_priors, reader
from salad.trainer.evaluate.divergences import POSITIONS, Divergences, batches, measure

__all__ = [
    "POSITIONS",
    "Answers",
    "Context",
    "Divergences",
    "Interval",
    "Question",
    "Reader",
    "answer",
    "batches",
    "listener",
    "mean_interval",
    "measure",
    "option_priors",
    "reader",
]
