"""What suites train, where that is more than a few lines: models, losses and scores."""
