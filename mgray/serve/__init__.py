"""Use of a trained model: recommendations, ratings and explanations of a trained model. Imports no training."""
