"""Answers of a trained model: masks of given dialogues, generated dialogues, what they share."""
