"""Results to figures: arrays and tables in, matplotlib figures out. No torch, no model."""
