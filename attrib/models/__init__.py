"""Models: architectures, checkpoints, and the layers of any other ``nn.Module``."""
