"""What several test modules share: images, files and programs. Contains no tests."""
