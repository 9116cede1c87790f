"""A behaviour log as expressions that run on any engine: its values, labels, page views, histories and splits."""
