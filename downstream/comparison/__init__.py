"""A comparison of embedding sources: tables, cells, figures."""
