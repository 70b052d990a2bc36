"""What people wire: one family a file, its schema and its execution."""
