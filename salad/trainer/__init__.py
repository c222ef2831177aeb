"""The student and its distillation: interleaving, encoders, the divergence, training, evaluation.

Knows nothing of pools, rounds, selectors, voices or Prefect.
"""
