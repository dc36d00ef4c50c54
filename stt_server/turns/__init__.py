"""Pure deciders: probabilities in, turns out."""
