"""How long one engine iteration takes, how much memory it needs, and the integer tables that the engine reads.

Reading order: `kernels` (closed forms), `calibration` (fitted constants), `roofline` (one iteration in seconds),
`quantization`, `speculation` and `disaggregation` (what three of the knobs change), `tables` (all of it in integers).
"""
