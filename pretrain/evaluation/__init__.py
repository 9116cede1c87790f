"""What an encoder is worth: page AUC, collapse, weights between initial and tuned."""
