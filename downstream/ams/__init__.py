"""The image server (Advanced Model Server, arXiv 1711.06505): features that fit on no single node.

``feature_store`` keeps the raw features, partitioned over the processes; ``server`` is the embedding model that trains
over them; ``strategies`` decides what travels; ``ids`` shards the ID tables; ``heartbeat`` names a lost process;
``serving`` answers after training; ``paper`` computes what it costs.
"""
