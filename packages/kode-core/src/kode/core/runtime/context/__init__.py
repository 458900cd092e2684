"""What of its history a model is shown: measured, cut, summed up, and made fit."""
