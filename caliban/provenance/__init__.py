"""What jobs are made of and where they ran, found out while they start."""
