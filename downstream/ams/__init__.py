"""The image server (Advanced Model Server, arXiv 1711.06505): features that fit no node, embedded where they lie.

``store`` keeps the raw features, partitioned over the processes; ``server`` is the embedding model that trains over
them; ``strategies`` says what travels; ``ids`` shards the ID tables; ``heartbeat`` names a lost process; ``serving``
answers after training; ``table`` and ``scaling`` print what it costs.
"""
