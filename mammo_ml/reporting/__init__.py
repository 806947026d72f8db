"""What is told of the figures: tables made from committed metrics."""
