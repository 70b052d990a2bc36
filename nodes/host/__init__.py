"""The library as ComfyUI's MODEL, CLIP, VAE, GUIDER, SAMPLER and VIDEO."""
