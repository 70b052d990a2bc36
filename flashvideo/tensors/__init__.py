"""What every room speaks of: the checks of videos and latents, and the sizes of the VAE."""
