"""The CogVideoX VAE: exact encoding and decoding, tiled."""
