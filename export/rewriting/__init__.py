"""Changes of the model itself: graphs, quantisation, pruning, distillation."""
