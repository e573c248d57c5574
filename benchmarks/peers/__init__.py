"""Other libraries beside ours: what makes them importable, and what is measured in pairs."""
