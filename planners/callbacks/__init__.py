"""Planners in the training loops of other packages: Lightning and Hugging Face's Trainer."""
