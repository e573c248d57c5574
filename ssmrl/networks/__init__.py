"""What agents are built from, around their memory."""
