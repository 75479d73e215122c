"""Models: architectures, checkpoints, and what it takes to look into any other ``nn.Module``."""
