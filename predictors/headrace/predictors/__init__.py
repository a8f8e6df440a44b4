"""One file per framework, each found by its entry point."""
