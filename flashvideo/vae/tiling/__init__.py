"""Exact tiled CogVideoX VAE: every layer runs over all tiles before the next one starts, so tiling never shows.

``modules`` lists a VAE's layers, ``plan`` cuts time and space, ``store`` keeps what waits, ``mover`` carries it,
``statistics`` and ``layers`` do the arithmetic of one tile, ``walker`` runs a chunk, ``estimate`` says beforehand what
it will take.
"""
