"""From a gin file to a trained model."""
