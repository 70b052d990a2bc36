"""Training both stages as the paper does, and everything that FlashVideo-Tiny is made of."""
