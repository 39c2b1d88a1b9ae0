"""What a user gets: recommendations, ratings and explanations of a trained model. Imports no training."""
