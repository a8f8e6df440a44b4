"""InferenceService defaulting."""
