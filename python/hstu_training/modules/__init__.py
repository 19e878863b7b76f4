"""The parts of the models."""
