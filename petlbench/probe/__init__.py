"""What a method costs, without data or pre-trained weights."""
