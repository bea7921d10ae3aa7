"""What plans cost: analytic and learned models of speed, and selection by prediction."""
