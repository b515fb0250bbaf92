"""TOML data shipped beside the code: defaults, the model registry, prompts, evaluation systems. No code."""
