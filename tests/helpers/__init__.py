"""Images, files and programs that several test modules use."""
