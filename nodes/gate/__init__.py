"""The preview gate: its node, its store, its routes, its signature."""
