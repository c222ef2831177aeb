"""The path of the data, in one name: spoken texts, prepared once and kept on disk, then batch after batch of them."""

from salad.trainer.batch import collate
from salad.trainer.examples import Example, Hearing, TargetKind, Targets, Utterance
from salad.trainer.prepare import prefix_token, prepare
from salad.trainer.prepared import load_examples

__all__ = ["Example", "Hearing", "TargetKind", "Targets", "Utterance", "collate", "load_examples", "prefix_token", "prepare"]
