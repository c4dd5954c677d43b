"""Plasticity metrics: pure functions and thin `Metric` classes around them, a file per noun."""
