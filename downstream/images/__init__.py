"""Images of items: raw features from a table, a feature store or an encoder, and the embedding model over them."""
