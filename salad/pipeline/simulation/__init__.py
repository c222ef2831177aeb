"""Strategies over rounds on a simulated pool, without a model: what is taken from a run, and what is assumed.

`source` reads a run; `response` fits how speech lowers D; `truth` makes the pool and draws the D that its texts truly have;
`rounds` plays the rounds with the real estimator and the real strategies; `compare` says what came of it, `plot` shows it, and
`experiment` holds it together. docs/simulate.md has the formulas, what they rest on and what they cannot tell. Nothing here
imports torch.
"""
