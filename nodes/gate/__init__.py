"""The preview gate: its node, its batches in the store, its routes."""
