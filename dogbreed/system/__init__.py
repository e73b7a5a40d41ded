"""What the operating system gives: CPU counts, threads, atomic files."""
