"""What can be seen while a method works."""
