"""Whatever a user brings: text and Parquet files, item lists, pictures."""
