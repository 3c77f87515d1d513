"""The training loop, augmentation, optimizers, checkpoints and devices."""
