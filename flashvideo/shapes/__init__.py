"""Moving shapes: endless captioned clips, drawn by a seeded generator, for training and judging FlashVideo-Tiny."""
