"""The experiment whose stages all run in seconds."""

TINY_CONFIG = {
    "name": "tiny",
    "data": {"dataset": "phantom"},
    "phantom": {"num_patients": 10, "max_visits": 1, "shape": [24, 24, 20], "spacing_mm": [6.0, 6.0, 6.0]},
    "preprocess": {"num_slices": 4, "image_size": [16, 16], "spacing_mm": 9.0, "num_workers": 1},
    "split": {"val_fraction": 0.2, "test_fraction": 0.3},
    "model": {
        "stem": "patches",
        "patch_size": 4,
        "perceiver": {"num_latents": 4, "latent_dim": 16, "num_cross_attends": 1, "self_attends_per_cross": 1},
    },
    "augment": {"horizontal_flip": "swap_label"},
    "train": {"epochs": 2, "batch_size": 16, "precision": "32-true"},
    "evaluate": {"num_bootstrap_resamples": 200},
    "attention": {"num_examples": 2},
    "tracking": {"tensorboard": True},
}
