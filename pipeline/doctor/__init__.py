"""`svp doctor`: what this machine has and what a recipe needs."""
