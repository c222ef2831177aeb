"""Strategies over rounds on a simulated pool, without a model: what is taken from a run, and what is assumed.

`source` reads a run; `response` fits how speech lowers D; `truth` makes the pool and draws the D that its texts truly have;
`rounds` plays the rounds with the real estimator and the real strategies; `result` compares; `plot` shows. The formulas, what
they rest on and what they cannot tell are in docs/simulate.md. Nothing here imports torch.
"""
