"""How good a model is: ranking and rating metrics, baselines, the gate, drift."""
