"""How a model learns: the training loop, losses, optimizer, checkpoints."""
