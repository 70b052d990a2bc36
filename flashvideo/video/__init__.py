"""Pictures: video files, resizing, colours, compression."""
