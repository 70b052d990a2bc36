"""What the networks cost on a device, counted without one, and predicted from what a device can do."""
