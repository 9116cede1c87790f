"""Item images in a CTR model: the joined table, frozen or tuned features, the trainable embedding model."""
