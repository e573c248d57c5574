"""What is learned, after how many steps: policies and world models."""
