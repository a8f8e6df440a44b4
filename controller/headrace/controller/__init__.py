"""From an InferenceService to desired objects: pure functions of values, no client, no clock."""
