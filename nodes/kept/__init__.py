"""What nodes keep on disk: the store, whose it is, and what names its folders."""
